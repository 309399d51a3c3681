-- Reading and writing in T1, the unit of work that records facts. See docs/architecture.md, "The path of one frame".

-- name: facts_answered
-- The stored answers of facts that are recorded already; counts the repeat.
UPDATE inbox i SET repeats = i.repeats + 1
FROM unnest($1::text[], $2::bytea[]) AS k (station_id, dedupe_key)
WHERE i.station_id = k.station_id AND i.dedupe_key = k.dedupe_key
RETURNING i.station_id, i.dedupe_key, i.response

-- name: facts_insert
-- The inbox rows of a batch. A key that is there already makes the batch look first and go again.
INSERT INTO inbox (station_id, dedupe_key, action, state, session_id, epoch, received_at, response)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::timestamptz[], $8::text[])

-- name: frames_insert
-- Messages as they were on the wire.
INSERT INTO frame (station_id, from_station, kind, action, message_id, dedupe_key, payload, at)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::smallint[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::timestamptz[])

-- name: sessions_open
-- The open sessions of some stations, locked in id order.
SELECT {columns} FROM charging_session
WHERE station_id = ANY($1::text[]) AND status IN ('PENDING', 'ONGOING', 'ORPHANED')
ORDER BY id FOR UPDATE

-- name: sessions_by_ref
-- Sessions by station and transaction, ended ones among them, locked in id order.
SELECT {columns} FROM charging_session
WHERE id IN (
    SELECT s.id FROM unnest($1::text[], $2::text[]) AS k (station_id, transaction_ref)
    JOIN charging_session s ON s.station_id = k.station_id AND s.transaction_ref = k.transaction_ref)
ORDER BY id FOR UPDATE

-- name: sessions_by_alias
-- Sessions by an id that their transaction had before; with that id.
SELECT alias, {columns} FROM charging_session
JOIN (SELECT transaction_ref AS alias, session_id AS alias_of FROM transaction_alias
      WHERE (station_id, transaction_ref) IN (SELECT * FROM unnest($1::text[], $2::text[]))) a ON alias_of = id
ORDER BY id FOR UPDATE OF charging_session

-- name: starts_adopt
-- Starts that were answered before they were recorded. While the session is open it takes the id that its station was told,
-- the one it had becomes an alias, and a repeat is answered as the station was; one that has ended keeps its id, and what
-- the station was told becomes the alias.
WITH told AS (
    SELECT k.station_id, k.dedupe_key, k.transaction_ref, k.response, s.id AS session_id, s.transaction_ref AS was,
           s.status IN ('PENDING', 'ONGOING', 'ORPHANED') AS is_open
    FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[]) AS k (station_id, dedupe_key, transaction_ref, response)
    JOIN inbox i ON i.station_id = k.station_id AND i.dedupe_key = k.dedupe_key
    JOIN charging_session s ON s.id = i.session_id
    WHERE s.transaction_ref IS DISTINCT FROM k.transaction_ref OR i.response <> k.response
), kept AS (
    INSERT INTO transaction_alias (station_id, transaction_ref, session_id)
    SELECT station_id, CASE WHEN is_open THEN was ELSE transaction_ref END, session_id FROM told
    WHERE was IS DISTINCT FROM transaction_ref AND (was IS NOT NULL OR NOT is_open)
    ON CONFLICT DO NOTHING
), answered AS (
    UPDATE inbox i SET response = told.response FROM told
    WHERE i.station_id = told.station_id AND i.dedupe_key = told.dedupe_key AND told.is_open
)
UPDATE charging_session s SET transaction_ref = told.transaction_ref FROM told WHERE s.id = told.session_id AND told.is_open

-- name: pulse
-- A write that means nothing: whether the database takes any.
INSERT INTO node_pulse (node, at) VALUES ($1, now()) ON CONFLICT (node) DO UPDATE SET at = EXCLUDED.at

-- name: sessions_by_start
-- Sessions that a start may be a repeat of, or the late answer to.
SELECT {columns} FROM charging_session
WHERE id IN (
    SELECT s.id FROM unnest($1::text[], $2::bytea[]) AS k (station_id, start_key)
    JOIN charging_session s ON s.station_id = k.station_id AND s.start_key = k.start_key
    UNION ALL
    SELECT s.id FROM charging_session s
    WHERE s.station_id = ANY($1::text[]) AND s.token = ANY($3::text[]) AND s.status = 'TERMINATED'
      AND NOT s.end_reported AND s.started_at IS NULL AND s.created_at > now() - interval '1 day')
ORDER BY id FOR UPDATE

-- name: sessions_ended_at
-- Sessions of a station that ended at one of some instants: replays of an end under another name.
SELECT {columns} FROM charging_session
WHERE id IN (
    SELECT s.id FROM unnest($1::text[], $2::timestamptz[]) AS k (station_id, ended_at)
    JOIN charging_session s ON s.station_id = k.station_id AND s.ended_at = k.ended_at)
ORDER BY id FOR UPDATE

-- name: tokens_by_value
-- Registered tokens.
SELECT value, status, token_group, driver_id, expires_at FROM token WHERE value = ANY($1::text[])

-- name: terms_of_stations
-- What a session that starts now is priced by: the newest tariff of the station, else of its organisation, else the default.
SELECT s.id AS station_id, s.organization_id, o.fee_percent, t.currency, t.price_per_kwh_minor
FROM station s
JOIN organization o ON o.id = s.organization_id
LEFT JOIN LATERAL (
  SELECT currency, price_per_kwh_minor FROM tariff
  WHERE valid_from <= now() AND ((scope = 'station' AND scope_id = s.id)
     OR (scope = 'organization' AND scope_id = s.organization_id) OR scope = 'default')
  ORDER BY CASE scope WHEN 'station' THEN 1 WHEN 'organization' THEN 2 ELSE 3 END, valid_from DESC, id DESC
  LIMIT 1
) t ON true
WHERE s.id = ANY($1::text[])

-- name: wallets_of_drivers
-- What users can spend, locked as every posting locks (held before wallet), so that no two starts set the same money
-- aside.
SELECT kind, owner, currency, balance_minor FROM ledger_account
WHERE kind IN ('held', 'wallet') AND owner = ANY($1::text[]) ORDER BY code FOR UPDATE

-- name: connectors_of_stations
-- The last believed report of each connector.
SELECT station_id, evse_id, connector_id, status, occurred_at, received_at FROM connector WHERE station_id = ANY($1::text[])

-- name: stations_out_of_order
-- Stations that we took out of order.
SELECT id FROM station WHERE id = ANY($1::text[]) AND out_of_order_since IS NOT NULL

-- name: sessions_metered
-- The meter figures of running sessions: the hot path.
UPDATE charging_session s
SET meter_start_wh = m.meter_start_wh, register_wh = m.register_wh, register_at = m.register_at, energy_wh = m.energy_wh,
    power_w = m.power_w, soc_percent = m.soc_percent, heard_at = m.heard_at, id_confirmed = m.id_confirmed
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::double precision[],
            $7::double precision[], $8::timestamptz[], $9::boolean[])
  AS m (id, meter_start_wh, register_wh, register_at, energy_wh, power_w, soc_percent, heard_at, id_confirmed)
WHERE s.id = m.id

-- name: readings_insert
-- Readings of sessions; the same instant and context once.
INSERT INTO reading (session_id, at, context, register_wh, power_w, current_a, soc_percent, others)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::double precision[],
                     $6::double precision[], $7::double precision[], $8::jsonb[])
ON CONFLICT DO NOTHING

-- name: strays_insert
-- Readings that belong to no session that we know.
INSERT INTO stray_reading (station_id, evse_id, transaction_ref, at, context, register_wh, power_w, received_at)
SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[],
                     $7::double precision[], $8::timestamptz[])
ON CONFLICT DO NOTHING

-- name: asks_insert
-- Commands to stations as effects of a decision, each key once.
INSERT INTO command (id, station_id, effect_key, session_id, neutral, action, payload, state, expires_at)
SELECT id, station_id, effect_key, session_id, true, action, payload, 'queued', now() + interval '15 minutes'
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[])
  AS c (id, station_id, effect_key, session_id, action, payload)
ON CONFLICT (effect_key) DO NOTHING

-- name: asks_withdraw
-- Queued commands whose cause is gone, by the key of their effect.
UPDATE command SET state = 'expired' WHERE effect_key = ANY($1::text[]) AND state = 'queued'

-- name: settle_jobs_insert
-- One job for each settlement that is due.
INSERT INTO job (kind, subject, version) SELECT 'settle', subject, version
FROM unnest($1::text[], $2::int[]) AS j (subject, version)
ON CONFLICT DO NOTHING

-- name: findings_insert
-- Findings, each key once; returns the kinds that are new.
INSERT INTO finding (kind, key, state, station_id, evse_id, session_id, summary, evidence)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::uuid[], $7::text[], $8::jsonb[])
ON CONFLICT (key) DO NOTHING
RETURNING kind, key, station_id, session_id, summary

-- name: connectors_save
-- Believed reports of connectors; `since` moves only when the status changes.
INSERT INTO connector (station_id, evse_id, connector_id, status, raw_status, error_code, info, occurred_at, received_at, since)
SELECT *, received_at FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::timestamptz[])
  AS c (station_id, evse_id, connector_id, status, raw_status, error_code, info, occurred_at, received_at)
ON CONFLICT (station_id, evse_id, connector_id) DO UPDATE
SET status = EXCLUDED.status, raw_status = EXCLUDED.raw_status, error_code = EXCLUDED.error_code, info = EXCLUDED.info,
    occurred_at = EXCLUDED.occurred_at, received_at = EXCLUDED.received_at,
    since = CASE WHEN connector.status = EXCLUDED.status THEN connector.since ELSE EXCLUDED.received_at END

-- name: boots_save
-- What stations said of themselves; a boot also forgets the order of status reports, since the clock may have been set.
WITH said AS (
  UPDATE station s SET vendor = b.vendor, model = b.model, serial = b.serial, firmware = b.firmware,
                       booted_at = b.received_at, last_seen_at = b.received_at
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
    AS b (id, vendor, model, serial, firmware, received_at)
  WHERE s.id = b.id
)
UPDATE connector SET occurred_at = NULL WHERE station_id = ANY($1::text[])

-- name: stations_save_status
-- The one status of each station, as concluded from its connectors and sessions.
UPDATE station s
SET status = c.status, derived_status = c.status,
    out_of_order_since = CASE WHEN c.out_of_order THEN coalesce(s.out_of_order_since, now()) END
FROM unnest($1::text[], $2::text[], $3::boolean[]) AS c (id, status, out_of_order)
WHERE s.id = c.id AND (s.status IS DISTINCT FROM c.status OR s.derived_status IS DISTINCT FROM c.status
                       OR (s.out_of_order_since IS NOT NULL) IS DISTINCT FROM c.out_of_order)

-- name: feed_insert
-- News for listeners.
INSERT INTO feed (kind, station_id, session_id, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::jsonb[])

-- name: transaction_numbers
-- Takes a block of the numbers behind transaction ids.
SELECT nextval('transaction_number') FROM generate_series(1, $1)

-- name: transaction_key
-- The installation's key, which makes transaction ids unguessable.
SELECT transaction_key FROM installation
