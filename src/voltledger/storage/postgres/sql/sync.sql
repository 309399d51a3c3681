-- What the sync service reads and repairs.

-- name: session_one
-- One session, locked.
SELECT {columns} FROM charging_session WHERE id = $1 FOR UPDATE

-- name: sessions_overdue
-- Starts that were asked for and never happened.
SELECT {columns} FROM charging_session
WHERE status = 'PENDING' AND pending_until < $1 ORDER BY id LIMIT 200 FOR UPDATE SKIP LOCKED

-- name: evse_lock
-- One at a time decides what begins on an EVSE; held until the end of the unit of work.
SELECT pg_advisory_xact_lock(hashtextextended('evse:' || $1::text || ':' || $2::int, 0))

-- name: session_open_on
-- The session that is open on an EVSE.
SELECT {columns} FROM charging_session
WHERE station_id = $1 AND evse_id = $2 AND status IN ('PENDING', 'ONGOING', 'ORPHANED') ORDER BY created_at LIMIT 1

-- name: station_connectors
-- How many connectors a station has.
SELECT connectors FROM station WHERE id = $1 AND disabled_at IS NULL

-- name: payer
-- A user's currency.
SELECT id, currency FROM driver WHERE id = $1

-- name: payer_balance
-- What a user can spend, locked as every posting locks (held before wallet), so that no two starts set the same money
-- aside.
SELECT kind, balance_minor FROM ledger_account WHERE code = ANY($1::text[]) ORDER BY code FOR UPDATE

-- name: sessions_stopping
-- Sessions that were asked to stop some time ago and still run, with how often they were asked.
SELECT {columns} FROM charging_session
WHERE status IN ('ONGOING', 'ORPHANED') AND stop_requested_at < $1 AND stop_attempts <= $2
ORDER BY id LIMIT 200 FOR UPDATE SKIP LOCKED

-- name: ghost_candidates
-- Running sessions whose connector has said Available since their last reading, or again after a restart since then, on
-- a connected station; the latter alone where that is asked for.
SELECT s.id, s.station_id, s.evse_id
FROM charging_session s
JOIN station p ON p.id = s.station_id
JOIN station_owner o ON o.station_id = s.station_id AND o.disconnected_at IS NULL
JOIN connector c ON c.station_id = s.station_id AND c.evse_id = s.evse_id
WHERE s.status IN ('ONGOING', 'ORPHANED') AND c.status = 'Available'
  AND (NOT $1::boolean AND (s.heard_at IS NULL OR c.since > s.heard_at)
       OR p.booted_at > s.heard_at AND c.received_at >= p.booted_at)

-- name: witness_of_session
-- The same of one session, now.
SELECT s.heard_at, c.status, c.since, c.received_at, p.booted_at,
       CASE WHEN o.disconnected_at IS NULL THEN o.connected_at END AS connected_at
FROM charging_session s
JOIN station p ON p.id = s.station_id
LEFT JOIN station_owner o ON o.station_id = s.station_id
LEFT JOIN connector c ON c.station_id = s.station_id AND c.evse_id = s.evse_id
WHERE s.id = $1
ORDER BY c.received_at DESC NULLS LAST LIMIT 1

-- name: orphan_candidates
-- Connectors of connected stations that charge, or whose meter rises, while no session runs on them.
WITH stray AS (
  -- Of the transaction that was heard of last: registers of two transactions are no difference.
  SELECT DISTINCT ON (station_id, evse_id) station_id, evse_id, transaction_ref,
         min(register_wh) AS first_wh, max(register_wh) AS last_wh, min(at) AS first_at, max(at) AS last_at
  FROM stray_reading y
  -- Energy that a session has counted is no stray: registers up to where the newest one ended are explained.
  LEFT JOIN LATERAL (
    SELECT s.meter_start_wh, s.register_wh AS counted_wh, s.ended_at FROM charging_session s
    WHERE s.station_id = y.station_id AND s.evse_id = y.evse_id AND s.started_at IS NOT NULL
    ORDER BY s.created_at DESC, s.id DESC LIMIT 1
  ) newest ON true
  WHERE received_at > now() - interval '15 minutes' AND evse_id > 0 AND register_wh IS NOT NULL
    AND (newest.counted_wh IS NULL OR register_wh >= newest.counted_wh
         OR (register_wh < newest.meter_start_wh AND y.at > newest.ended_at))
  GROUP BY station_id, evse_id, transaction_ref
  ORDER BY station_id, evse_id, max(received_at) DESC
)
SELECT coalesce(c.station_id, y.station_id) AS station_id, coalesce(c.evse_id, y.evse_id) AS evse_id,
       coalesce(c.connector_id, 1) AS connector_id, c.status, c.since, c.received_at, o.connected_at,
       y.transaction_ref, y.first_wh, y.last_wh, y.first_at, y.last_at
FROM connector c
FULL JOIN stray y ON y.station_id = c.station_id AND y.evse_id = c.evse_id
JOIN station_owner o ON o.station_id = coalesce(c.station_id, y.station_id) AND o.disconnected_at IS NULL
WHERE coalesce(c.evse_id, y.evse_id) > 0
  AND (c.status IN ('Charging', 'SuspendedEV', 'SuspendedEVSE') OR y.last_wh > y.first_wh)
  AND NOT EXISTS (SELECT 1 FROM charging_session s
                  WHERE s.station_id = coalesce(c.station_id, y.station_id)
                    AND s.evse_id = coalesce(c.evse_id, y.evse_id) AND s.status IN ('ONGOING', 'ORPHANED'))

-- name: session_latest_on
-- The newest session that began on an EVSE.
SELECT {columns} FROM charging_session
WHERE station_id = $1 AND evse_id = $2 AND started_at IS NOT NULL ORDER BY started_at DESC, id DESC LIMIT 1 FOR UPDATE

-- name: strays_adopt
-- Stray readings of an EVSE become readings of the session that was made for them: those of its transaction, or of none,
-- from its beginning on.
WITH taken AS (
  DELETE FROM stray_reading
  WHERE station_id = $1 AND evse_id = $2 AND transaction_ref IN ('', $4) AND at >= $5
  RETURNING at, context, register_wh, power_w
)
INSERT INTO reading (session_id, at, context, register_wh, power_w)
SELECT DISTINCT ON (at, context) $3, at, context, register_wh, power_w FROM taken
ON CONFLICT DO NOTHING

-- name: sessions_unsettled
-- Ended sessions that nobody is to settle: rows that were changed by hand.
SELECT {columns} FROM charging_session s
WHERE s.status IN ('COMPLETED', 'TERMINATED', 'GHOST') AND s.settled_at IS NULL AND NOT s.suspect
  AND NOT EXISTS (SELECT 1 FROM job j
                  WHERE j.kind = 'settle' AND j.subject = s.id::text AND j.version = s.settle_version + 1)
ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED

-- name: manual_changes
-- Registers and energy that a person changed on ended sessions and that nobody has looked at, oldest first.
SELECT * FROM manual_change WHERE taken_at IS NULL ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED

-- name: manual_changes_taken
-- Changes by hand that have been looked at.
UPDATE manual_change SET taken_at = now() WHERE id = ANY($1::bigint[])

-- name: jobs_let_go
-- Held settlements whose session is no longer doubted.
UPDATE job j SET state = 'waiting', run_after = now(), last_error = NULL FROM charging_session s
WHERE j.state = 'held' AND j.kind = 'settle' AND s.id = j.subject::uuid AND NOT s.suspect RETURNING s.id

-- name: stations_overview
-- What each station's one status follows from.
SELECT s.id, s.status, s.derived_status, s.out_of_order_since IS NOT NULL AS out_of_order,
       o.disconnected_at IS NULL AND o.station_id IS NOT NULL AS connected,
       EXISTS (SELECT 1 FROM charging_session x WHERE x.station_id = s.id AND x.status IN ('ONGOING', 'ORPHANED')) AS running
FROM station s LEFT JOIN station_owner o ON o.station_id = s.id

-- name: station_freed_by_hand
-- A status that a person set is taken as said; a station set to AVAILABLE is no longer out of order.
UPDATE station SET derived_status = status,
  out_of_order_since = CASE WHEN status = 'AVAILABLE' THEN NULL
                            WHEN status = 'OUT_OF_ORDER' THEN coalesce(out_of_order_since, now()) ELSE out_of_order_since END
WHERE id = $1

-- name: station_take_out
-- A station that will not stop is taken out of order.
UPDATE station SET status = 'OUT_OF_ORDER', derived_status = 'OUT_OF_ORDER',
                   out_of_order_since = coalesce(out_of_order_since, now()) WHERE id = $1

-- name: stations_seen
-- When connected stations were last heard of.
UPDATE station s SET last_seen_at = v.at FROM unnest($1::text[], $2::timestamptz[]) AS v (id, at)
WHERE s.id = v.id AND (s.last_seen_at IS NULL OR s.last_seen_at < v.at)

-- name: findings_repaired
-- Open findings about a session that has now been settled.
UPDATE finding SET state = 'repaired', closed_at = now()
WHERE session_id = $1 AND state = 'open'
  AND (kind IN ('ghost', 'orphaned', 'will_not_stop')
       OR kind = 'unknown_energy' AND EXISTS (SELECT 1 FROM charging_session s WHERE s.id = $1 AND NOT s.estimated))

-- name: clean_feed
-- News that every listener has had the time to read.
DELETE FROM feed WHERE at < now() - $1::interval

-- name: clean_idempotency
-- Answers that nobody will ask for again.
DELETE FROM api_idempotency WHERE created_at < now() - interval '7 days'

-- name: clean_outbox
-- Effects that were sent long ago.
DELETE FROM outbox WHERE state = 'sent' AND created_at < now() - interval '7 days'

-- name: clean_runs
-- Old runs of loops.
DELETE FROM job_run WHERE started_at < now() - interval '30 days'

-- name: clean_strays
-- Readings that nobody claimed.
DELETE FROM stray_reading WHERE received_at < now() - interval '30 days'

-- name: lease_take
-- The right to run the loops, taken or kept; the fence grows with each holder.
INSERT INTO lease AS l (name, holder, fence, held_until) VALUES ($1, $2, 1, now() + $3::interval)
ON CONFLICT (name) DO UPDATE
SET holder = EXCLUDED.holder, held_until = EXCLUDED.held_until,
    fence = CASE WHEN l.holder = EXCLUDED.holder THEN l.fence ELSE l.fence + 1 END
WHERE l.holder = EXCLUDED.holder OR l.held_until < now()
RETURNING fence

-- name: lease_give_back
-- The right to run the loops, for another node to take at once.
DELETE FROM lease WHERE name = $1 AND holder = $2

-- name: run_begin
-- One run of a loop in one period, whatever the number of nodes.
INSERT INTO job_run (job, period_start, node) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING job

-- name: run_end
-- How a run went.
UPDATE job_run SET duration_s = $3, outcome = $4 WHERE job = $1 AND period_start = $2

-- name: gauges
-- Figures for health and metrics.
SELECT (SELECT count(*) FROM charging_session WHERE status IN ('ONGOING', 'ORPHANED')) AS sessions_active,
       (SELECT jsonb_object_agg(kind, n) FROM (SELECT kind, count(*) AS n FROM finding WHERE state = 'open' GROUP BY kind) f) AS findings_open

-- name: totals
-- Figures over everything recorded; read less often.
SELECT (SELECT jsonb_object_agg(kind, n) FROM (SELECT kind, count(*) AS n FROM finding GROUP BY kind) f) AS findings,
       (SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) AS n FROM charging_session GROUP BY status) s) AS sessions
