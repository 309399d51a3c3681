-- T2, the unit of work that turns an ended session into postings.

-- name: settle_job_next
-- The next settlement that is due, locked by the unit of work that does it.
SELECT id, subject, version FROM job
WHERE kind = 'settle' AND state = 'waiting' AND run_after <= now()
ORDER BY run_after, id LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: settle_session
-- The session to settle, locked.
SELECT {columns} FROM charging_session WHERE id = $1 FOR UPDATE

-- name: settle_latest
-- What has been settled for a session so far.
SELECT version, paid_minor, cost_minor, covered_minor, refund_minor, owed_minor, fee_minor, share_minor
FROM settlement WHERE session_id = $1 ORDER BY version DESC LIMIT 1

-- name: settle_insert
-- The settlement, with everything that it was derived from.
INSERT INTO settlement (session_id, version, energy_wh, price_per_kwh_minor, fee_percent, currency, paid_minor, cost_minor,
                        covered_minor, refund_minor, owed_minor, fee_minor, share_minor, entry_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: settle_mark_session
-- The session after its settlement.
UPDATE charging_session SET settle_version = $2, refunded_minor = $3, settled_at = now() WHERE id = $1

-- name: job_done
-- A job that has been done.
UPDATE job SET state = 'done', done_at = now(), attempts = attempts + 1 WHERE id = $1

-- name: job_held
-- A job that waits for a person.
UPDATE job SET state = 'held', last_error = $2 WHERE id = $1

-- name: job_forget
-- A job whose cause is gone: its session is active again and will get a new one.
DELETE FROM job WHERE id = $1

-- name: job_again
-- A job that failed; tried again later, and later each time.
UPDATE job SET attempts = attempts + 1, last_error = $2,
               run_after = now() + least(interval '10 minutes', interval '1 second' * power(2, least(attempts, 10)))
WHERE id = $1

-- name: outbox_insert
-- An effect outside the database.
INSERT INTO outbox (effect_key, target, payload) VALUES ($1, $2, $3::jsonb) ON CONFLICT (effect_key) DO NOTHING

-- name: outbox_claim
-- Effects to send, locked until they are marked.
SELECT id, effect_key, target, payload, attempts FROM outbox WHERE state = 'waiting' AND run_after <= now()
ORDER BY run_after, id LIMIT $1 FOR UPDATE SKIP LOCKED

-- name: outbox_sent
-- Effects that have been sent.
UPDATE outbox SET state = 'sent', attempts = attempts + 1, last_error = NULL WHERE id = ANY($1::bigint[])

-- name: outbox_later
-- Effects whose target is away.
UPDATE outbox SET attempts = attempts + 1, run_after = now() + interval '5 seconds' WHERE id = ANY($1::bigint[])

-- name: outbox_failed
-- Effects that failed for reasons of their own: tried again later, and later each time.
UPDATE outbox o SET attempts = attempts + 1, last_error = f.problem,
                    run_after = now() + least(interval '10 minutes', interval '5 seconds' * power(2, least(attempts, 10)))
FROM unnest($1::bigint[], $2::text[]) AS f (id, problem) WHERE o.id = f.id
