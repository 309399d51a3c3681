-- What an outage of the database leaves to remember: other names of a transaction, and which nodes are at work.
-- migrate:up

SET LOCAL lock_timeout = '5s';

-- Ids that a session's transaction had before its station was told another one, while this database was away.
CREATE TABLE transaction_alias (
  station_id text NOT NULL,
  transaction_ref text NOT NULL,
  session_id uuid NOT NULL REFERENCES charging_session (id),
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT transaction_alias_once PRIMARY KEY (station_id, transaction_ref)
);

-- Written by each node to see whether this database takes writes; also tells when a node was last at work.
CREATE TABLE node_pulse (
  node text PRIMARY KEY,
  at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Serves: calls that nobody waits for any more.
CREATE INDEX command_sending ON command (station_id) WHERE state = 'sending';

DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'voltledger_app') THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON transaction_alias, node_pulse TO voltledger_app;
  END IF;
END $$;
