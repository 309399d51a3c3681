-- Sessions newest first: by the time of their creation, since ids made from an idempotency key do not sort by time.
-- migrate:up

SET LOCAL lock_timeout = '5s';

-- Serves: the list of all sessions, newest first.
CREATE INDEX session_newest ON charging_session (created_at DESC, id DESC);
-- Serves: the newest sessions of a station or a driver.
CREATE INDEX session_newest_of_station ON charging_session (station_id, created_at DESC, id DESC);
CREATE INDEX session_newest_of_driver ON charging_session (driver_id, created_at DESC, id DESC) WHERE driver_id IS NOT NULL;
