-- The books: accounts, entries and postings.

-- name: accounts_lock
-- Accounts whose balance is kept, locked in code order.
SELECT id, code, balance_minor FROM ledger_account WHERE code = ANY($1::text[]) ORDER BY code FOR UPDATE

-- name: accounts_ensure
-- Accounts by code, made when first needed; those whose balance is kept start at zero and are locked.
WITH wanted AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[]) AS w (code, kind, owner, currency, kept)
), made AS (
  INSERT INTO ledger_account (code, kind, owner, currency, balance_minor)
  SELECT code, kind, owner, currency, CASE WHEN kept THEN 0 END FROM wanted w
  WHERE NOT EXISTS (SELECT 1 FROM ledger_account a WHERE a.code = w.code)
  ON CONFLICT (code) DO UPDATE SET balance_minor = ledger_account.balance_minor
  RETURNING id, code, balance_minor
)
SELECT id, code, balance_minor FROM made
UNION ALL
SELECT a.id, a.code, a.balance_minor FROM ledger_account a JOIN wanted w ON w.code = a.code
WHERE NOT EXISTS (SELECT 1 FROM made m WHERE m.code = a.code)

-- name: entries_insert
-- Entries; one that exists already is left out of what comes back.
INSERT INTO ledger_entry (kind, source_id, version, session_id, reason)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::uuid[], $5::text[])
ON CONFLICT ON CONSTRAINT entry_once DO NOTHING
RETURNING id, kind, source_id, version

-- name: postings_insert
-- The lines of entries.
INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor, balance_after)
SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::char[], $5::bigint[], $6::bigint[])

-- name: balances_save
-- Balances that are kept, after their postings.
UPDATE ledger_account a SET balance_minor = b.balance_minor
FROM unnest($1::bigint[], $2::bigint[]) AS b (id, balance_minor) WHERE a.id = b.id
