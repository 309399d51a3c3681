-- What the gateway asks while stations are connected.

-- name: station_access
-- What admission needs of a station, whatever the letter case of its name.
SELECT id, password_hash, security_profile, disabled_at IS NOT NULL AS disabled FROM station WHERE lower(id) = lower($1)

-- name: token_one
-- One registered token.
SELECT value, status, token_group, driver_id, expires_at FROM token WHERE value = $1

-- name: token_expected
-- Whether an open session of a station has this token.
SELECT EXISTS (SELECT 1 FROM charging_session
               WHERE station_id = $1 AND token = $2 AND status IN ('PENDING', 'ONGOING', 'ORPHANED'))

-- name: tokens_all
-- Registered tokens, for answers while this database is away; the newest where there are too many.
SELECT value, status, token_group, driver_id, expires_at FROM token ORDER BY created_at DESC LIMIT $1

-- name: tokens_expected
-- Tokens of sessions that were asked for and have not begun.
SELECT station_id, token FROM charging_session WHERE status = 'PENDING' AND token IS NOT NULL

-- name: owner_claim
-- A node takes a station over; the epoch only rises. What an older epoch was sending has an unknown outcome.
WITH owner AS (
  INSERT INTO station_owner (station_id, node, epoch, connected_at) VALUES ($1, $2, 1, $3)
  ON CONFLICT (station_id) DO UPDATE
  SET node = EXCLUDED.node, epoch = station_owner.epoch + 1, connected_at = EXCLUDED.connected_at, disconnected_at = NULL
  RETURNING epoch
), lost AS (
  UPDATE command SET state = 'unknown' WHERE station_id = $1 AND state = 'sending'
)
SELECT epoch FROM owner

-- name: owner_release
-- The socket of an epoch is gone; nothing if a newer one holds the station.
WITH gone AS (
  UPDATE station_owner SET disconnected_at = $3 WHERE station_id = $1 AND epoch = $2 RETURNING station_id
)
UPDATE station s SET status = 'OFFLINE', derived_status = 'OFFLINE', last_seen_at = $3
FROM gone WHERE s.id = gone.station_id AND s.out_of_order_since IS NULL

-- name: owners_left
-- Stations that an earlier run at this address held when it stopped without saying so: nobody holds them now.
UPDATE station_owner SET disconnected_at = now()
WHERE split_part(node, '#', 1) = split_part($1, '#', 1) AND node <> $1 AND disconnected_at IS NULL

-- name: lease_left
-- The right to run the loops, as far as an earlier run at this address still holds it.
DELETE FROM lease WHERE split_part(holder, '#', 1) = split_part($1, '#', 1) AND holder <> $1

-- name: owners_other
-- Of some stations those that are not recorded as held by this node, although their sockets are open here.
SELECT s.id FROM station s LEFT JOIN station_owner o ON o.station_id = s.id
WHERE s.id = ANY($1::text[]) AND (o.node IS DISTINCT FROM $2 OR o.disconnected_at IS NOT NULL)

-- name: command_insert
-- A call of ours that is about to be sent.
INSERT INTO command (id, station_id, session_id, neutral, action, payload, state, epoch, expires_at, sent_at)
VALUES ($1, $2, $3, false, $4, $5, 'sending', $6, now() + interval '1 hour', now())

-- name: command_finish
-- What became of a call.
UPDATE command SET state = $2, response = $3, answered_at = now() WHERE id = $1

-- name: commands_claim
-- The oldest queued command of each connected station, marked as being sent by this epoch.
UPDATE command c SET state = 'sending', sent_at = now(), epoch = o.epoch
FROM station_owner o
WHERE c.id IN (
    SELECT DISTINCT ON (q.station_id) q.id FROM command q
    WHERE q.state = 'queued' AND q.station_id = ANY($1::text[]) AND q.expires_at > now()
    ORDER BY q.station_id, q.created_at)
  AND c.state = 'queued' AND o.station_id = c.station_id AND o.node = $2 AND o.disconnected_at IS NULL
RETURNING c.id, c.station_id, c.session_id, c.neutral, c.action, c.payload

-- name: commands_expire
-- Queued commands whose time is over.
UPDATE command SET state = 'expired' WHERE state = 'queued' AND expires_at <= now() RETURNING id, session_id, action

-- name: commands_give_up
-- Commands of this node's stations that are being sent for longer than they can, and by nobody: their outcome is unknown.
UPDATE command c SET state = 'unknown' FROM station_owner o
WHERE c.state = 'sending' AND o.station_id = c.station_id AND o.node = $1
  AND c.sent_at < now() - make_interval(secs => $2) AND c.id <> ALL($3::uuid[])
RETURNING c.id

-- name: commands_lost
-- Commands that an earlier run at this address was sending when it stopped: nobody knows what became of them.
UPDATE command SET state = 'unknown' WHERE state = 'sending'
  AND station_id IN (SELECT station_id FROM station_owner
                     WHERE split_part(node, '#', 1) = split_part($1, '#', 1) AND node <> $1)

-- name: frames_of_connection
-- Messages that are no facts, kept a moment later.
INSERT INTO frame (station_id, from_station, kind, action, message_id, payload, at)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
