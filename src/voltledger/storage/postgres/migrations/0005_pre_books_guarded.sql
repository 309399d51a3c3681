-- The rules of the books hold against whoever may make temporary tables, and a kept balance follows from its postings.
-- migrate:up

SET LOCAL lock_timeout = '5s';

-- Temporary tables are looked at last: one named like a table of the books must not stand in for it.
DO $$
DECLARE
  rule text;
BEGIN
  FOREACH rule IN ARRAY ARRAY['refuse_change', 'check_entry_balanced', 'check_posting_with_entry', 'note_manual_change'] LOOP
    EXECUTE format('ALTER FUNCTION %I() SET search_path = pg_catalog, %I, pg_temp', rule, current_schema());
  END LOOP;
END $$;

-- A kept balance is what it was before this unit of work, and what this unit of work has posted.
CREATE FUNCTION check_balance_is_posted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before record;
  posted bigint;
  found bigint;
BEGIN
  SELECT p.entry_id, p.balance_after INTO before
  FROM ledger_posting p JOIN ledger_entry e ON e.id = p.entry_id
  WHERE p.account_id = NEW.id AND e.xid <> pg_current_xact_id()
  ORDER BY p.entry_id DESC, p.line DESC LIMIT 1;
  SELECT coalesce(sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END), 0) INTO posted
  FROM ledger_posting p JOIN ledger_entry e ON e.id = p.entry_id
  WHERE p.account_id = NEW.id AND p.entry_id > coalesce(before.entry_id, 0) AND e.xid = pg_current_xact_id();
  SELECT balance_minor INTO found FROM ledger_account WHERE id = NEW.id;
  IF found <> coalesce(before.balance_after, 0) + posted THEN
    RAISE EXCEPTION 'the balance of account % does not follow from its postings', NEW.code
      USING ERRCODE = 'check_violation', CONSTRAINT = 'balance_is_posted';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER balance_is_posted AFTER INSERT OR UPDATE OF balance_minor ON ledger_account
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.balance_minor IS NOT NULL)
  EXECUTE FUNCTION check_balance_is_posted();

-- A line of an account whose balance is kept moves that balance, and says what it was moved to.
CREATE FUNCTION check_posting_moves_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  kept bigint;
  newest bigint;
BEGIN
  SELECT balance_minor INTO kept FROM ledger_account WHERE id = NEW.account_id;
  IF kept IS NULL THEN
    RETURN NULL;
  END IF;
  SELECT balance_after INTO newest FROM ledger_posting WHERE account_id = NEW.account_id
  ORDER BY entry_id DESC, line DESC LIMIT 1;
  IF newest IS DISTINCT FROM kept THEN
    RAISE EXCEPTION 'line % of entry % does not move the balance of its account', NEW.line, NEW.entry_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_moves_balance';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER posting_moves_balance AFTER INSERT ON ledger_posting
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_posting_moves_balance();

DO $$
DECLARE
  rule text;
BEGIN
  FOREACH rule IN ARRAY ARRAY['check_balance_is_posted', 'check_posting_moves_balance'] LOOP
    EXECUTE format('ALTER FUNCTION %I() SET search_path = pg_catalog, %I, pg_temp', rule, current_schema());
  END LOOP;
  -- A plan that was made while the tables were empty would walk through all of them ever after.
  ALTER FUNCTION check_entry_balanced() SET enable_seqscan = off;
  ALTER FUNCTION check_posting_with_entry() SET enable_seqscan = off;
  ALTER FUNCTION check_balance_is_posted() SET plan_cache_mode = force_custom_plan;
  ALTER FUNCTION check_posting_moves_balance() SET plan_cache_mode = force_custom_plan;
  -- Numbers, times and the unit of work of an entry are the database's to give.
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'voltledger_app') THEN
    REVOKE INSERT ON ledger_entry FROM voltledger_app;
    GRANT INSERT (kind, source_id, version, session_id, reason) ON ledger_entry TO voltledger_app;
  END IF;
END $$;
