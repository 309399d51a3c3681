-- Reading and changing what people manage: stations, tokens, users, money coming in, tariffs, keys; and showing the rest.
-- Lists take the last key of the page before, or NULL for the first page, and a limit.

-- name: catalog_station_add
-- A new station; nothing comes back when the id is taken.
INSERT INTO station (id, organization_id, password_hash, security_profile, ocpp_versions, connectors)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING RETURNING id AS value

-- name: catalog_stations
-- Stations by id, after the last one seen.
SELECT id, organization_id AS organization, status, security_profile, ocpp_versions, connectors AS connector_count, vendor, model,
       serial, firmware, booted_at, last_seen_at, out_of_order_since, disabled_at, created_at
FROM station
WHERE id > coalesce($1, '') AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR organization_id = $3)
ORDER BY id LIMIT $4

-- name: catalog_station
-- One station.
SELECT id, organization_id AS organization, status, security_profile, ocpp_versions, connectors AS connector_count, vendor, model,
       serial, firmware, booted_at, last_seen_at, out_of_order_since, disabled_at, created_at
FROM station WHERE id = $1

-- name: catalog_station_change
-- A station's settings; NULL leaves one as it is.
UPDATE station SET
  organization_id = coalesce($2, organization_id), password_hash = coalesce($3, password_hash),
  security_profile = coalesce($4, security_profile), ocpp_versions = coalesce($5, ocpp_versions),
  connectors = coalesce($6, connectors),
  disabled_at = CASE WHEN $7::boolean THEN coalesce(disabled_at, now()) WHEN NOT $7::boolean THEN NULL ELSE disabled_at END
WHERE id = $1 RETURNING id AS value

-- name: catalog_stations_disabled
-- Which of some stations may not be connected any more.
SELECT id AS value FROM station WHERE id = ANY($1::text[]) AND disabled_at IS NOT NULL ORDER BY id

-- name: catalog_connectors
-- The last believed report of each connector of some stations.
SELECT station_id, evse_id AS evse, connector_id AS connector, status, raw_status, error_code, info, occurred_at, received_at, since
FROM connector WHERE station_id = ANY($1::text[]) ORDER BY station_id, evse_id, connector_id

-- name: catalog_sessions_open
-- The open sessions of some stations, to stand beside the connectors.
SELECT id, station_id, evse_id AS evse, status, driver_id AS "user", started_at, created_at, energy_wh, power_w, heard_at
FROM charging_session WHERE station_id = ANY($1::text[]) AND status IN ('PENDING', 'ONGOING', 'ORPHANED')
ORDER BY created_at DESC, id DESC

-- name: catalog_token_add
-- A new token; nothing comes back when it is registered already.
INSERT INTO token (value, shown, kind, status, token_group, driver_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (value) DO NOTHING RETURNING value

-- name: catalog_tokens
-- Tokens by value, after the last one seen.
SELECT shown AS value, kind AS type, status, token_group AS "group", driver_id AS "user", expires_at, created_at, value AS sort_key
FROM token
WHERE value > coalesce($1, '') AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR driver_id = $3)
ORDER BY value LIMIT $4

-- name: catalog_token
-- One token.
SELECT shown AS value, kind AS type, status, token_group AS "group", driver_id AS "user", expires_at, created_at, value AS sort_key
FROM token WHERE value = $1

-- name: catalog_token_change
-- A token as it shall be from now on.
UPDATE token SET kind = $2, status = $3, token_group = $4, driver_id = $5, expires_at = $6 WHERE value = $1 RETURNING value

-- name: catalog_user_add
-- A new user; nothing comes back when the id is taken.
INSERT INTO driver (id, name, currency) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING id AS value

-- name: catalog_users
-- Users by id, after the last one seen, with what they can spend and what is set aside.
SELECT d.id, d.name, d.currency, coalesce(w.balance_minor, 0) AS balance_minor, coalesce(h.balance_minor, 0) AS held_minor, d.created_at
FROM driver d
LEFT JOIN ledger_account w ON w.code = 'wallet:' || d.id || ':' || d.currency
LEFT JOIN ledger_account h ON h.code = 'held:' || d.id || ':' || d.currency
WHERE d.id > coalesce($1, '') ORDER BY d.id LIMIT $2

-- name: catalog_user
-- One user, with what they can spend and what is set aside.
SELECT d.id, d.name, d.currency, coalesce(w.balance_minor, 0) AS balance_minor, coalesce(h.balance_minor, 0) AS held_minor, d.created_at
FROM driver d
LEFT JOIN ledger_account w ON w.code = 'wallet:' || d.id || ':' || d.currency
LEFT JOIN ledger_account h ON h.code = 'held:' || d.id || ':' || d.currency
WHERE d.id = $1

-- name: catalog_organization_add
-- A new organisation; nothing comes back when the id is taken.
INSERT INTO organization (id, name, fee_percent) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING id AS value

-- name: catalog_organizations
-- Organisations by id, after the last one seen.
SELECT id, name, trim_scale(fee_percent) AS fee_percent, created_at FROM organization WHERE id > coalesce($1, '') ORDER BY id LIMIT $2

-- name: catalog_organization
-- One organisation.
SELECT id, name, trim_scale(fee_percent) AS fee_percent, created_at FROM organization WHERE id = $1

-- name: catalog_organization_change
-- An organisation's name and fee from now on; sessions that began keep theirs.
UPDATE organization SET name = coalesce($2, name), fee_percent = CASE WHEN $4::boolean THEN NULL ELSE coalesce($3, fee_percent) END
WHERE id = $1 RETURNING id AS value

-- name: catalog_wallet_lines
-- The movements of a wallet, newest first.
SELECT e.id, p.line, e.kind, CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END AS amount_minor,
       p.balance_after AS balance_minor, a.currency, e.session_id AS session, e.reason, e.recorded_at
FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id JOIN ledger_entry e ON e.id = p.entry_id
WHERE a.kind = 'wallet' AND a.owner = $1
  AND ($2::bigint IS NULL OR (p.entry_id, p.line) < ($2::bigint, $3::smallint))
ORDER BY p.entry_id DESC, p.line DESC LIMIT $4

-- name: catalog_topup
-- The top-up that a key names, as it was recorded.
SELECT e.id, a.owner AS "user", p.amount_minor, p.balance_after AS balance_minor, a.currency, e.source_id AS key, e.recorded_at
FROM ledger_entry e JOIN ledger_posting p ON p.entry_id = e.id JOIN ledger_account a ON a.id = p.account_id AND a.kind = 'wallet'
WHERE e.kind = 'topup' AND e.source_id = $1 AND e.version = 1

-- name: catalog_feed_insert
-- Word to listeners of a change made here.
INSERT INTO feed (kind, station_id, session_id, payload) VALUES ($1, $2, $3, $4::jsonb)

-- name: catalog_tariff_add
-- A price from now on.
INSERT INTO tariff (scope, scope_id, currency, price_per_kwh_minor, valid_from) VALUES ($1, $2, $3, $4, coalesce($5, now()))
RETURNING id, scope, scope_id, currency, trim_scale(price_per_kwh_minor) AS price_per_kwh_minor, valid_from, true AS current, created_at

-- name: catalog_tariffs
-- Prices, newest first; `current` is the one that counts now in its scope.
SELECT t.id, t.scope, t.scope_id, t.currency, trim_scale(t.price_per_kwh_minor) AS price_per_kwh_minor, t.valid_from, t.created_at,
       t.id = (SELECT n.id FROM tariff n WHERE n.scope = t.scope AND n.scope_id = t.scope_id AND n.valid_from <= now()
               ORDER BY n.valid_from DESC, n.id DESC LIMIT 1) IS TRUE AS current
FROM tariff t
WHERE ($1::bigint IS NULL OR t.id < $1) AND ($2::text IS NULL OR t.scope = $2) AND ($3::text IS NULL OR t.scope_id = $3)
ORDER BY t.id DESC LIMIT $4

-- name: catalog_tariff_of_station
-- The price that a session at a station would start with now.
SELECT t.id, t.scope, t.scope_id, t.currency, trim_scale(t.price_per_kwh_minor) AS price_per_kwh_minor, t.valid_from, t.created_at, true AS current
FROM station s JOIN tariff t ON t.valid_from <= now() AND ((t.scope = 'station' AND t.scope_id = s.id)
  OR (t.scope = 'organization' AND t.scope_id = s.organization_id) OR t.scope = 'default')
WHERE s.id = $1
ORDER BY CASE t.scope WHEN 'station' THEN 1 WHEN 'organization' THEN 2 ELSE 3 END, t.valid_from DESC, t.id DESC LIMIT 1

-- name: catalog_key_add
-- A new key to the API; only its hash is kept.
INSERT INTO api_key (id, key_hash, role, name, driver_id, expires_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id AS value

-- name: catalog_keys
-- Keys, newest first, without their hashes.
SELECT id, role, name, driver_id AS "user", created_at, expires_at, revoked_at FROM api_key ORDER BY created_at DESC, id LIMIT $1

-- name: catalog_key_by_hash
-- The key that a hash belongs to, if it may be used now.
SELECT id, role, driver_id AS "user" FROM api_key
WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())

-- name: catalog_key_revoke
-- Ends a key.
UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING id AS value

-- name: catalog_sessions
-- Sessions with their newest settlement, newest first: ids alone do not sort by time.
SELECT s.id, s.status, s.station_id AS station, s.evse_id AS connector, s.driver_id AS "user", s.transaction_ref AS transaction_id,
       s.started_at, s.ended_at, s.stop_reason, s.energy_wh, s.paid_minor, s.refunded_minor, s.currency, s.estimated, s.settled_at,
       s.price_per_kwh_minor, s.fee_percent, s.power_w, s.soc_percent, s.heard_at, s.created_at, s.organization_id AS organization, s.suspect,
       v.cost_minor, v.fee_minor, v.share_minor, v.refund_minor, v.owed_minor
FROM charging_session s
LEFT JOIN settlement v ON v.session_id = s.id AND v.version = s.settle_version
WHERE (s.created_at, s.id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
  AND ($3::text[] IS NULL OR s.status = ANY($3)) AND ($4::text IS NULL OR s.station_id = $4)
  AND ($5::text IS NULL OR s.driver_id = $5)
ORDER BY s.created_at DESC, s.id DESC LIMIT $6

-- name: catalog_session
-- One session with its newest settlement.
SELECT s.id, s.status, s.station_id AS station, s.evse_id AS connector, s.driver_id AS "user", s.transaction_ref AS transaction_id,
       s.started_at, s.ended_at, s.stop_reason, s.energy_wh, s.paid_minor, s.refunded_minor, s.currency, s.estimated, s.settled_at,
       s.price_per_kwh_minor, s.fee_percent, s.power_w, s.soc_percent, s.heard_at, s.created_at, s.organization_id AS organization, s.suspect,
       v.cost_minor, v.fee_minor, v.share_minor, v.refund_minor, v.owed_minor
FROM charging_session s
LEFT JOIN settlement v ON v.session_id = s.id AND v.version = s.settle_version
WHERE s.id = $1

-- name: catalog_facts_of_session
-- What the station reported of a session besides readings, in the order in which we got it.
SELECT action, state, received_at, repeats FROM inbox
WHERE station_id = $1 AND session_id = $2 AND action <> 'MeterValues' ORDER BY received_at LIMIT $3

-- name: catalog_readings
-- What the meter said in a session, in order of time.
SELECT at, context, register_wh, power_w, current_a, soc_percent, others FROM reading
WHERE session_id = $1 AND ($2::timestamptz IS NULL OR (at, context) > ($2, $3::text))
ORDER BY at, context LIMIT $4

-- name: catalog_findings
-- Findings, newest first.
SELECT id, kind, state, station_id AS station, evse_id AS evse, session_id AS session, summary, evidence, found_at, closed_at
FROM finding
WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR kind = $3)
  AND ($4::text IS NULL OR station_id = $4) AND ($5::uuid IS NULL OR session_id = $5)
ORDER BY id DESC LIMIT $6

-- name: catalog_finding
-- One finding.
SELECT id, kind, state, station_id AS station, evse_id AS evse, session_id AS session, summary, evidence, found_at, closed_at
FROM finding WHERE id = $1

-- name: catalog_finding_close
-- An open finding as a person decided; nothing comes back when it is closed already.
UPDATE finding SET state = $2, closed_at = now() WHERE id = $1 AND state IN ('open', 'noted') AND closed_at IS NULL RETURNING id AS value

-- name: catalog_frames
-- The conversation with a station, newest first.
SELECT id, from_station, kind, action, message_id, payload, at FROM frame
WHERE station_id = $1 AND ($2::bigint IS NULL OR id < $2) AND ($3::text IS NULL OR action = $3)
  AND ($4::text IS NULL OR strpos(lower(payload), lower($4)) > 0)
ORDER BY id DESC LIMIT $5

-- name: catalog_accounts
-- Accounts by code with their balances, growing on the side that is natural for their kind.
SELECT a.code, a.kind, a.owner, a.currency, a.created_at,
       coalesce(a.balance_minor, (SELECT sum(CASE WHEN (p.side = 'D') = (a.kind IN ('provider', 'receivable'))
                                                  THEN p.amount_minor ELSE -p.amount_minor END)
                                  FROM ledger_posting p WHERE p.account_id = a.id), 0)::bigint AS balance_minor
FROM ledger_account a
WHERE a.code > coalesce($1, '') AND ($2::text IS NULL OR a.kind = $2) AND ($3::text IS NULL OR a.owner = $3)
ORDER BY a.code LIMIT $4

-- name: catalog_entries
-- Entries, newest first.
SELECT id, kind, source_id AS source, version, session_id AS session, reason, recorded_at FROM ledger_entry
WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR kind = $2) AND ($3::uuid IS NULL OR session_id = $3)
ORDER BY id DESC LIMIT $4

-- name: catalog_postings
-- The lines of some entries, in order.
SELECT p.entry_id, p.line, a.code AS account, CASE p.side WHEN 'D' THEN 'debit' ELSE 'credit' END AS side, p.amount_minor,
       a.currency, p.balance_after
FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id
WHERE p.entry_id = ANY($1::bigint[]) ORDER BY p.entry_id, p.line

-- name: catalog_settlements
-- The settlements of a session, first to last.
SELECT version, energy_wh, trim_scale(price_per_kwh_minor) AS price_per_kwh_minor, trim_scale(fee_percent) AS fee_percent, currency,
       paid_minor, cost_minor, covered_minor, refund_minor, owed_minor, fee_minor, share_minor, entry_id, settled_at
FROM settlement WHERE session_id = $1 ORDER BY version

-- name: catalog_commands_of_session
-- What we asked of the station for a session.
SELECT id, action, state, created_at, sent_at, answered_at FROM command WHERE session_id = $1 ORDER BY created_at

-- name: catalog_feed
-- News after a place in the order of commits; what rivals have not committed yet is left for later, so nothing is skipped.
SELECT id, xid::text::bigint AS xid, kind, station_id AS station, session_id AS session, payload, at FROM feed
WHERE (xid, id) > ($1::text::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid, id LIMIT $3

-- name: catalog_feed_end
-- The place after everything that is committed now.
SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) AS xid, 9223372036854775807 AS id

-- name: catalog_counts
-- How much there is of everything that the first page shows.
SELECT (SELECT count(*) FROM station WHERE disabled_at IS NULL) AS stations,
       (SELECT count(*) FROM charging_session WHERE status IN ('ONGOING', 'ORPHANED')) AS sessions_active,
       (SELECT count(*) FROM charging_session WHERE status = 'PENDING') AS sessions_pending,
       (SELECT count(*) FROM charging_session WHERE status IN ('COMPLETED', 'TERMINATED', 'GHOST') AND settled_at IS NULL) AS sessions_unsettled,
       (SELECT count(*) FROM finding WHERE state = 'open') AS findings_open

-- name: catalog_power
-- What flows now, as the stations last said, in watts.
SELECT coalesce(sum(power_w), 0)::double precision AS value FROM charging_session WHERE status IN ('ONGOING', 'ORPHANED')

-- name: catalog_money
-- Where the money is, by currency.
SELECT a.currency,
       coalesce(sum(a.balance_minor) FILTER (WHERE a.kind = 'wallet'), 0)::bigint AS wallets_minor,
       coalesce(sum(a.balance_minor) FILTER (WHERE a.kind = 'held'), 0)::bigint AS held_minor,
       coalesce(sum(p.credit - p.debit) FILTER (WHERE a.kind = 'platform_fee'), 0)::bigint AS fees_minor,
       coalesce(sum(p.credit - p.debit) FILTER (WHERE a.kind = 'payable'), 0)::bigint AS payable_minor,
       coalesce(sum(p.debit - p.credit) FILTER (WHERE a.kind = 'receivable'), 0)::bigint AS receivable_minor,
       coalesce(sum(p.debit - p.credit) FILTER (WHERE a.kind = 'provider'), 0)::bigint AS received_minor
FROM ledger_account a
LEFT JOIN LATERAL (
  SELECT coalesce(sum(amount_minor) FILTER (WHERE side = 'D'), 0) AS debit, coalesce(sum(amount_minor) FILTER (WHERE side = 'C'), 0) AS credit
  FROM ledger_posting WHERE account_id = a.id AND a.balance_minor IS NULL
) p ON true
GROUP BY a.currency ORDER BY a.currency

-- name: catalog_refunded
-- What has been given back to users, by currency.
SELECT currency, coalesce(sum(refunded_minor), 0)::bigint AS refunded_minor FROM charging_session
WHERE refunded_minor > 0 GROUP BY currency ORDER BY currency

-- name: catalog_findings_by_kind
-- Findings by class and state.
SELECT kind, state, count(*) AS count FROM finding GROUP BY kind, state ORDER BY kind, state

-- name: catalog_loops
-- The newest run of each periodic loop.
SELECT DISTINCT ON (job) job AS name, started_at AS last_run, duration_s, outcome FROM job_run ORDER BY job, period_start DESC

-- name: catalog_idempotency_get
-- The answer that was given to a request with this key.
SELECT request_hash, status, response FROM api_idempotency WHERE actor = $1 AND key = $2

-- name: catalog_idempotency_put
-- Keeps an answer for its key; the first one stands.
INSERT INTO api_idempotency (actor, key, request_hash, status, response) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
