-- What a person changes of an ended session's registers or energy is noted, with who and when; effects say why they failed.
-- migrate:up

SET LOCAL lock_timeout = '5s';

-- How often the server itself has saved a session; a change that leaves it as it was is a person's.
ALTER TABLE charging_session ADD COLUMN saves integer NOT NULL DEFAULT 0;

-- Changes that were not the server's, taken up by the next database sync.
CREATE TABLE manual_change (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session_id uuid NOT NULL,
  station_id text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now(),
  changed_by text NOT NULL,
  meter_start_before_wh bigint,
  meter_start_after_wh bigint,
  meter_stop_before_wh bigint,
  meter_stop_after_wh bigint,
  energy_before_wh bigint NOT NULL,
  energy_after_wh bigint NOT NULL,
  taken_at timestamptz
);
CREATE INDEX manual_change_waiting ON manual_change (id) WHERE taken_at IS NULL;

-- Runs with its owner's rights: whoever may change a session's registers need not be able to write here otherwise.
CREATE FUNCTION note_manual_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO manual_change (session_id, station_id, changed_by, meter_start_before_wh, meter_start_after_wh,
                             meter_stop_before_wh, meter_stop_after_wh, energy_before_wh, energy_after_wh)
  VALUES (NEW.id, NEW.station_id,
          session_user || coalesce(' with ' || nullif(current_setting('application_name', true), ''), '')
                       || coalesce(' from ' || host(inet_client_addr()), ''),
          OLD.meter_start_wh, NEW.meter_start_wh, OLD.meter_stop_wh, NEW.meter_stop_wh, OLD.energy_wh, NEW.energy_wh);
  RETURN NULL;
END $$;

-- The condition is looked at without calling anything: readings of running sessions pay almost nothing for it.
CREATE TRIGGER session_changed_by_hand AFTER UPDATE OF meter_start_wh, meter_stop_wh, energy_wh ON charging_session
FOR EACH ROW WHEN (
  OLD.status IN ('COMPLETED', 'TERMINATED', 'GHOST') AND NEW.status IN ('COMPLETED', 'TERMINATED', 'GHOST')
  AND NEW.saves = OLD.saves
  AND (OLD.meter_start_wh IS DISTINCT FROM NEW.meter_start_wh OR OLD.meter_stop_wh IS DISTINCT FROM NEW.meter_stop_wh
       OR OLD.energy_wh <> NEW.energy_wh)
) EXECUTE FUNCTION note_manual_change();

-- Serves: settlements that a person, or a later fact, lets go.
CREATE INDEX job_held ON job (id) WHERE state = 'held';

-- Why an effect outside the database failed last.
ALTER TABLE outbox ADD COLUMN last_error text;

DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'voltledger_app') THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON manual_change TO voltledger_app;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO voltledger_app;
  END IF;
END $$;
