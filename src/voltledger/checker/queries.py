"""The checker's own questions to PostgreSQL. It shares none with the server.

Where a rule is a plain aggregate, the question is the rule: an answer row is a difference. $1 is a session, or NULL for
all of them.
"""

SESSIONS = """
SELECT id, station_id, evse_id, connector_id, organization_id, status, origin, transaction_ref, token, driver_id,
       created_at, started_at, ended_at, meter_start_wh, meter_stop_wh, register_wh, energy_wh, heard_at, currency,
       price_per_kwh_minor, fee_percent, paid_minor, refunded_minor, settle_version, settled_at, end_reported,
       estimated, suspect, pending_until
FROM charging_session WHERE $1::uuid IS NULL OR id = $1
"""

SETTLEMENTS = """
SELECT session_id, version, energy_wh, price_per_kwh_minor, fee_percent, currency, paid_minor, cost_minor,
       covered_minor, refund_minor, owed_minor, fee_minor, share_minor, entry_id, settled_at
FROM settlement WHERE $1::uuid IS NULL OR session_id = $1 ORDER BY session_id, version
"""

# Credit counts up.
SESSION_MONEY = """
SELECT e.session_id,
       coalesce(sum(x.amount) FILTER (WHERE a.kind = 'wallet'), 0)::bigint AS wallet,
       coalesce(sum(x.amount) FILTER (WHERE a.kind = 'held'), 0)::bigint AS held,
       coalesce(sum(x.amount) FILTER (WHERE a.kind = 'receivable'), 0)::bigint AS receivable,
       coalesce(sum(x.amount) FILTER (WHERE a.kind = 'payable'), 0)::bigint AS payable,
       coalesce(sum(x.amount) FILTER (WHERE a.kind = 'platform_fee'), 0)::bigint AS platform_fee
FROM ledger_entry e
JOIN ledger_posting p ON p.entry_id = e.id
CROSS JOIN LATERAL (SELECT CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END AS amount) x
JOIN ledger_account a ON a.id = p.account_id
WHERE e.session_id IS NOT NULL AND ($1::uuid IS NULL OR e.session_id = $1)
GROUP BY e.session_id
"""

HOLDS = """
SELECT e.session_id, e.version, sum(p.amount_minor)::bigint AS amount
FROM ledger_entry e
JOIN ledger_posting p ON p.entry_id = e.id AND p.side = 'C'
JOIN ledger_account a ON a.id = p.account_id AND a.kind = 'held'
WHERE e.kind = 'hold' AND e.session_id IS NOT NULL AND ($1::uuid IS NULL OR e.session_id = $1)
GROUP BY e.session_id, e.version
"""

INBOX = """
SELECT station_id, dedupe_key, action, state, session_id, received_at, response
FROM inbox WHERE station_id = ANY($1)
"""

FRAMES = """
SELECT station_id, action, dedupe_key, payload
FROM frame WHERE station_id = ANY($1) AND from_station AND kind = 2 AND dedupe_key IS NOT NULL
"""

ACCOUNTS = """
SELECT a.code, a.kind, a.owner, a.currency, a.balance_minor,
       coalesce(sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END), 0)::bigint AS posted
FROM ledger_account a LEFT JOIN ledger_posting p ON p.account_id = a.id
GROUP BY a.id
"""

UNBALANCED = """
SELECT p.entry_id, a.currency,
       sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END)::bigint AS amount
FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id
GROUP BY p.entry_id, a.currency
HAVING sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END) <> 0
ORDER BY p.entry_id
"""

# Entries of one account have ascending numbers in the order in which its lock was held. What is wrong once is wrong in
# every later line too: the first of each account says where.
OFF_BALANCE = """
SELECT DISTINCT ON (code) code, entry_id, line, running, balance_after FROM (
  SELECT a.code, p.entry_id, p.line, p.balance_after,
         (sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END)
            OVER (PARTITION BY p.account_id ORDER BY p.entry_id, p.line))::bigint AS running
  FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id
  WHERE a.balance_minor IS NOT NULL
) lines
WHERE running < 0 OR running IS DISTINCT FROM balance_after
ORDER BY code, entry_id, line
"""

ODD_ENTRIES = """
SELECT id, kind, source_id, version, 'it has no lines' AS what FROM ledger_entry e
WHERE NOT EXISTS (SELECT 1 FROM ledger_posting p WHERE p.entry_id = e.id)
UNION ALL
SELECT id, kind, source_id, version, 'it names no session, or another than its source'
FROM ledger_entry WHERE kind IN ('hold', 'settlement', 'release')
                    AND split_part(source_id, ':', 1) IS DISTINCT FROM session_id::text
UNION ALL
SELECT e.id, e.kind, e.source_id, e.version, 'no settlement explains it' FROM ledger_entry e
WHERE e.kind = 'settlement'
  AND NOT EXISTS (SELECT 1 FROM settlement s WHERE s.entry_id = e.id AND s.session_id::text = e.source_id
                                               AND s.version = e.version)
UNION ALL
SELECT s.entry_id, 'settlement', s.session_id::text, s.version, 'the settlement names an entry that is not its own'
FROM settlement s LEFT JOIN ledger_entry e ON e.id = s.entry_id
WHERE s.entry_id IS NOT NULL AND (e.id IS NULL OR e.kind <> 'settlement' OR e.source_id <> s.session_id::text
                                  OR e.version <> s.version)
ORDER BY 1, 5
"""

UNFINISHED = """
SELECT 'job' AS what, kind || ' ' || subject || ' v' || version AS name, state, created_at AS since, subject,
       last_error AS why
FROM job WHERE state <> 'done'
UNION ALL
SELECT 'outbox', effect_key, state, created_at, NULL, NULL FROM outbox WHERE state <> 'sent'
UNION ALL
SELECT 'command', action || ' ' || id, state, expires_at, session_id::text, NULL
FROM command WHERE state IN ('queued', 'sending')
ORDER BY 4
"""

OUTBOX = "SELECT effect_key, target, state, created_at FROM outbox WHERE target = ANY($1)"

# A connector that says that it is free, after the last that its open session said.
FREE_CONNECTORS = """
SELECT s.id AS session_id, s.station_id, s.evse_id, greatest(c.received_at, o.connected_at) AS since
FROM charging_session s
JOIN station_owner o ON o.station_id = s.station_id AND o.disconnected_at IS NULL
JOIN connector c ON c.station_id = s.station_id AND c.evse_id = s.evse_id AND c.status = 'Available'
WHERE s.status IN ('ONGOING', 'ORPHANED') AND (s.heard_at IS NULL OR c.since > s.heard_at)
"""

# Ends that were applied to sessions which are open all the same.
ENDED_YET_OPEN = """
SELECT s.id AS session_id, s.station_id, i.received_at
FROM inbox i JOIN charging_session s ON s.id = i.session_id
WHERE i.action = 'StopTransaction' AND i.state = 'applied' AND s.status IN ('PENDING', 'ONGOING', 'ORPHANED')
"""

FINDINGS = """
SELECT kind, key, state, station_id, session_id, found_at FROM finding
WHERE $1::uuid IS NULL OR session_id = $1 OR session_id IS NULL
"""

# Other ids that a transaction had, from an outage of the database.
ALIASES = "SELECT station_id, transaction_ref, session_id FROM transaction_alias"

# Sessions whose registers or energy a person changed, which is noted with who and when.
CHANGED_BY_HAND = "SELECT DISTINCT session_id FROM manual_change"

STATIONS = "SELECT id, organization_id FROM station"

CONNECTORS = """
SELECT DISTINCT ON (station_id, evse_id) station_id, evse_id, status FROM connector
ORDER BY station_id, evse_id, received_at DESC
"""

OWNERS = "SELECT station_id, node FROM station_owner WHERE disconnected_at IS NULL"

READINGS_OF_NOBODY = """
SELECT count(*) FROM reading r WHERE NOT EXISTS (SELECT 1 FROM charging_session s WHERE s.id = r.session_id)
"""

# What belongs to one station, session, payer or organisation and names another one's.
CROSSED = """
SELECT 'inbox row' AS what, i.station_id || ' ' || i.action AS subject, i.station_id AS expected,
       coalesce(s.station_id, 'no session') AS found
FROM inbox i LEFT JOIN charging_session s ON s.id = i.session_id
WHERE i.session_id IS NOT NULL AND s.station_id IS DISTINCT FROM i.station_id
UNION ALL
SELECT 'finding', f.key, f.station_id, coalesce(s.station_id, 'no session')
FROM finding f LEFT JOIN charging_session s ON s.id = f.session_id
WHERE f.session_id IS NOT NULL AND s.station_id IS DISTINCT FROM f.station_id
UNION ALL
SELECT 'command', c.action || ' ' || c.id, c.station_id, coalesce(s.station_id, 'no session')
FROM command c LEFT JOIN charging_session s ON s.id = c.session_id
WHERE c.session_id IS NOT NULL AND s.station_id IS DISTINCT FROM c.station_id
UNION ALL
SELECT 'ledger line', 'entry ' || e.id || ' of session ' || s.id,
       CASE WHEN a.kind = 'payable' THEN s.organization_id ELSE coalesce(s.driver_id, 'nobody') END
         || ' ' || s.currency,
       a.code
FROM ledger_entry e
JOIN charging_session s ON s.id = e.session_id
JOIN ledger_posting p ON p.entry_id = e.id
JOIN ledger_account a ON a.id = p.account_id
WHERE a.currency <> s.currency
   OR (a.kind IN ('wallet', 'held') AND a.owner IS DISTINCT FROM s.driver_id)
   OR (a.kind = 'receivable' AND a.owner NOT IN ('unknown', coalesce(s.driver_id, 'unknown')))
   OR (a.kind = 'payable' AND a.owner <> s.organization_id)
"""

# True in a run whose stations and tokens nobody moved; on a living system people may have moved them since.
MOVED = """
SELECT 'session' AS what, s.id::text AS subject, t.organization_id AS expected, s.organization_id AS found
FROM charging_session s JOIN station t ON t.id = s.station_id WHERE s.organization_id <> t.organization_id
UNION ALL
SELECT 'payer of session', s.id::text, k.driver_id, coalesce(s.driver_id, 'nobody')
FROM charging_session s JOIN token k ON k.value = s.token
WHERE s.origin = 'local' AND k.created_at < s.created_at AND k.driver_id IS NOT NULL
  AND s.driver_id IS DISTINCT FROM k.driver_id
"""

TOPPED_UP = """
SELECT a.currency, coalesce(sum(p.amount_minor), 0)::bigint AS amount
FROM ledger_entry e
JOIN ledger_posting p ON p.entry_id = e.id AND p.side = 'C'
JOIN ledger_account a ON a.id = p.account_id
WHERE e.kind = 'topup' GROUP BY a.currency
"""

COUNTS = """
SELECT now() AS at, (SELECT count(*) FROM ledger_entry) AS entries, (SELECT count(*) FROM inbox) AS inbox
"""

# --- raw frames, for `verify` -------------------------------------------------------------------------

# Ordered as they arrived; each station's facts come in one piece.
RAW_FACTS = """
SELECT f.station_id, f.action, f.payload, f.at, i.state, i.session_id, i.response
FROM frame f JOIN inbox i ON i.station_id = f.station_id AND i.dedupe_key = f.dedupe_key
WHERE f.from_station AND f.kind = 2 AND f.dedupe_key IS NOT NULL
  AND f.action IN ('StartTransaction', 'MeterValues', 'StopTransaction')
  AND ($1::text IS NULL OR f.station_id = $1)
ORDER BY f.station_id, f.id
"""

# What came before the oldest frame of its kind was trimmed; what came later must be there.
OLDEST_FRAMES = "SELECT action, min(at) AS at FROM frame WHERE from_station AND kind = 2 GROUP BY action"

FACTS_WITHOUT_FRAME = """
SELECT i.station_id, i.action, i.received_at, i.session_id FROM inbox i
WHERE ($1::text IS NULL OR i.station_id = $1)
  AND NOT EXISTS (SELECT 1 FROM frame f WHERE f.station_id = i.station_id AND f.dedupe_key = i.dedupe_key)
"""
