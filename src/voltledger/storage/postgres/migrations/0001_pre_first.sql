-- The first schema: stations and what they said, sessions, double-entry books, and the work that follows from them.
-- migrate:up

SET LOCAL lock_timeout = '5s';

-- This installation: its key scrambles transaction numbers, so that they cannot be guessed.
CREATE TABLE installation (
  only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT installation_is_one CHECK (only_one),
  created_at timestamptz NOT NULL DEFAULT now(),
  transaction_key bytea NOT NULL
);
INSERT INTO installation (transaction_key)
SELECT decode(replace(gen_random_uuid()::text, '-', ''), 'hex');

-- Draws the numbers behind 1.6 transaction ids; nodes take them in blocks, gaps are normal.
CREATE SEQUENCE transaction_number AS bigint MAXVALUE 2147483646 NO CYCLE;

-- Owners of stations; fee_percent NULL means the setting.
CREATE TABLE organization (
  id text PRIMARY KEY CONSTRAINT organization_id_short CHECK (length(id) BETWEEN 1 AND 64),
  name text NOT NULL,
  fee_percent numeric(6, 3) CONSTRAINT organization_fee_is_percent CHECK (fee_percent BETWEEN 0 AND 100),
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO organization (id, name) VALUES ('default', 'Default organisation');

-- People whose money we hold.
CREATE TABLE driver (
  id text PRIMARY KEY CONSTRAINT driver_id_short CHECK (length(id) BETWEEN 1 AND 64),
  name text NOT NULL,
  currency char(3) NOT NULL CONSTRAINT driver_currency_is_code CHECK (currency ~ '^[A-Z]{3}$'),
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Prices; a row is never changed, the newest valid one of the nearest scope counts.
CREATE TABLE tariff (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  scope text NOT NULL CONSTRAINT tariff_scope_known CHECK (scope IN ('default', 'organization', 'station')),
  scope_id text NOT NULL DEFAULT '',
  currency char(3) NOT NULL CONSTRAINT tariff_currency_is_code CHECK (currency ~ '^[A-Z]{3}$'),
  price_per_kwh_minor numeric(14, 4) NOT NULL CONSTRAINT tariff_price_not_negative CHECK (price_per_kwh_minor >= 0),
  valid_from timestamptz NOT NULL DEFAULT now(),
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tariff_newest ON tariff (scope, scope_id, valid_from DESC, id DESC);

-- Charging stations. status is what the user's document calls a charge point's status; derived_status is what we last
-- concluded, so that a change by hand shows as a difference.
CREATE TABLE station (
  id text PRIMARY KEY CONSTRAINT station_id_short CHECK (length(id) BETWEEN 1 AND 48),
  organization_id text NOT NULL DEFAULT 'default' REFERENCES organization (id),
  status text NOT NULL DEFAULT 'OFFLINE' CONSTRAINT station_status_known
    CHECK (status IN ('AVAILABLE', 'OCCUPIED', 'RESERVED', 'UNAVAILABLE', 'OUT_OF_ORDER', 'OFFLINE')),
  derived_status text NOT NULL DEFAULT 'OFFLINE',
  password_hash text,
  security_profile smallint NOT NULL DEFAULT 1 CONSTRAINT station_profile_known CHECK (security_profile BETWEEN 0 AND 3),
  ocpp_versions text[] NOT NULL DEFAULT '{ocpp1.6}',
  connectors smallint NOT NULL DEFAULT 1 CONSTRAINT station_connectors_sane CHECK (connectors BETWEEN 0 AND 128),
  vendor text NOT NULL DEFAULT '',
  model text NOT NULL DEFAULT '',
  serial text NOT NULL DEFAULT '',
  firmware text NOT NULL DEFAULT '',
  booted_at timestamptz,
  last_seen_at timestamptz,
  out_of_order_since timestamptz,
  disabled_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);

-- Stations differ in letter case from one handshake to the next: one spelling each, whatever its case.
CREATE UNIQUE INDEX station_one_spelling ON station (lower(id));

-- Which node holds a station's socket. The epoch only ever rises: it fences commands and presence, never facts.
CREATE TABLE station_owner (
  station_id text PRIMARY KEY REFERENCES station (id) ON DELETE CASCADE,
  node text NOT NULL,
  epoch bigint NOT NULL,
  connected_at timestamptz NOT NULL,
  disconnected_at timestamptz
) WITH (fillfactor = 70);

-- The last believed report of each connector; evse_id 0 is the station as a whole.
CREATE TABLE connector (
  station_id text NOT NULL REFERENCES station (id) ON DELETE CASCADE,
  evse_id integer NOT NULL,
  connector_id integer NOT NULL,
  status text NOT NULL,
  raw_status text NOT NULL DEFAULT '',
  error_code text NOT NULL DEFAULT 'NoError',
  info text NOT NULL DEFAULT '',
  occurred_at timestamptz,
  received_at timestamptz NOT NULL,
  since timestamptz NOT NULL,
  PRIMARY KEY (station_id, evse_id, connector_id)
) WITH (fillfactor = 70);

-- What identifies drivers at a station. value is trimmed and in capitals; shown keeps the spelling given.
CREATE TABLE token (
  value text PRIMARY KEY CONSTRAINT token_value_short CHECK (length(value) BETWEEN 1 AND 255),
  shown text NOT NULL,
  kind text NOT NULL DEFAULT 'ISO14443',
  status text NOT NULL DEFAULT 'Accepted' CONSTRAINT token_status_known
    CHECK (status IN ('Accepted', 'Blocked', 'Expired', 'Invalid', 'ConcurrentTx')),
  token_group text,
  driver_id text REFERENCES driver (id),
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX token_of_driver ON token (driver_id) WHERE driver_id IS NOT NULL;

-- One visit of one vehicle. Energy in whole Wh, money in minor units of currency. end_reported: the station itself said
-- that it ended; any other end (ours, or a person's by SQL) may still be corrected by the station's own.
CREATE TABLE charging_session (
  id uuid PRIMARY KEY,
  station_id text NOT NULL REFERENCES station (id),
  evse_id integer NOT NULL,
  connector_id integer NOT NULL,
  organization_id text NOT NULL REFERENCES organization (id),
  status text NOT NULL CONSTRAINT session_status_known
    CHECK (status IN ('PENDING', 'ONGOING', 'ORPHANED', 'COMPLETED', 'TERMINATED', 'GHOST')),
  origin text NOT NULL CONSTRAINT session_origin_known CHECK (origin IN ('prepaid', 'local', 'orphan')),
  transaction_ref text,
  start_key bytea,
  token text,
  driver_id text REFERENCES driver (id),
  created_at timestamptz NOT NULL,
  started_at timestamptz,
  ended_at timestamptz,
  stop_reason text,
  meter_start_wh bigint,
  meter_stop_wh bigint,
  register_wh bigint,
  register_at timestamptz,
  energy_wh bigint NOT NULL DEFAULT 0 CONSTRAINT session_energy_not_negative CHECK (energy_wh >= 0),
  power_w double precision,
  soc_percent double precision,
  heard_at timestamptz,
  currency char(3) NOT NULL,
  price_per_kwh_minor numeric(14, 4) NOT NULL,
  fee_percent numeric(6, 3) NOT NULL,
  paid_minor bigint NOT NULL DEFAULT 0 CONSTRAINT session_paid_not_negative CHECK (paid_minor >= 0),
  refunded_minor bigint NOT NULL DEFAULT 0 CONSTRAINT session_refund_within_paid CHECK (refunded_minor BETWEEN 0 AND paid_minor),
  settle_version integer NOT NULL DEFAULT 0,
  settled_at timestamptz,
  end_reported boolean NOT NULL DEFAULT false,
  estimated boolean NOT NULL DEFAULT false,
  suspect boolean NOT NULL DEFAULT false,
  id_confirmed boolean NOT NULL DEFAULT false,
  stop_requested_at timestamptz,
  stop_attempts integer NOT NULL DEFAULT 0,
  pending_until timestamptz,
  CONSTRAINT session_one_per_transaction UNIQUE (station_id, transaction_ref),
  CONSTRAINT session_one_per_start UNIQUE (station_id, start_key)
) WITH (fillfactor = 70);
-- Serves: the open sessions of the stations in a batch.
CREATE INDEX session_open ON charging_session (station_id) WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED');
-- Serves: ended sessions that nobody settled, changes by hand among them.
CREATE INDEX session_unsettled ON charging_session (id)
  WHERE status IN ('COMPLETED', 'TERMINATED', 'GHOST') AND settled_at IS NULL;
-- Serves: a start that comes after its deadline.
CREATE INDEX session_not_started ON charging_session (station_id, token)
  WHERE status = 'TERMINATED' AND NOT end_reported AND started_at IS NULL;
-- Serves: a repeated end that names no transaction.
CREATE INDEX session_ended ON charging_session (station_id, ended_at) WHERE ended_at IS NOT NULL;
-- Serves: the newest sessions of a station or a driver, and the list of all.
CREATE INDEX session_of_station ON charging_session (station_id, id DESC);
CREATE INDEX session_of_driver ON charging_session (driver_id, id DESC) WHERE driver_id IS NOT NULL;

-- Facts of stations, each once by its business identity, with the answer that was given.
CREATE TABLE inbox (
  station_id text NOT NULL,
  dedupe_key bytea NOT NULL,
  action text NOT NULL,
  state text NOT NULL CONSTRAINT inbox_state_known CHECK (state IN ('applied', 'quarantined', 'conflict', 'poison')),
  session_id uuid,
  epoch bigint NOT NULL,
  received_at timestamptz NOT NULL,
  repeats integer NOT NULL DEFAULT 0,
  response text NOT NULL,
  CONSTRAINT inbox_once PRIMARY KEY (station_id, dedupe_key)
);
CREATE INDEX inbox_doubtful ON inbox (received_at) WHERE state <> 'applied';

-- The conversation as it was on the wire; kind 2 CALL, 3 CALLRESULT, 4 CALLERROR.
CREATE TABLE frame (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  station_id text NOT NULL,
  from_station boolean NOT NULL,
  kind smallint NOT NULL,
  action text NOT NULL DEFAULT '',
  message_id text NOT NULL DEFAULT '',
  dedupe_key bytea,
  payload text NOT NULL,
  at timestamptz NOT NULL
);
CREATE INDEX frame_of_station ON frame (station_id, id DESC);

-- What meters said in sessions: one row an instant and context, registers in whole Wh. Never summed for billing.
CREATE TABLE reading (
  session_id uuid NOT NULL,
  at timestamptz NOT NULL,
  context text NOT NULL,
  register_wh bigint,
  power_w double precision,
  current_a double precision,
  soc_percent double precision,
  others jsonb,
  CONSTRAINT reading_once PRIMARY KEY (session_id, at, context)
);

-- Readings that belong to no session that we know: evidence for reconciliation.
CREATE TABLE stray_reading (
  station_id text NOT NULL,
  evse_id integer NOT NULL,
  transaction_ref text NOT NULL DEFAULT '',
  at timestamptz NOT NULL,
  context text NOT NULL,
  register_wh bigint,
  power_w double precision,
  received_at timestamptz NOT NULL,
  CONSTRAINT stray_reading_once PRIMARY KEY (station_id, evse_id, at, context, transaction_ref)
);

-- Serves: what was heard lately.
CREATE INDEX stray_reading_newest ON stray_reading (received_at);

-- Buckets of money; balance_minor is kept, and kept from falling below its floor, for wallets and held money only.
CREATE TABLE ledger_account (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  code text NOT NULL CONSTRAINT account_code_once UNIQUE,
  kind text NOT NULL CONSTRAINT account_kind_known
    CHECK (kind IN ('provider', 'wallet', 'held', 'receivable', 'payable', 'platform_fee')),
  owner text NOT NULL,
  currency char(3) NOT NULL,
  balance_minor bigint CONSTRAINT account_not_overdrawn CHECK (balance_minor >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT account_balance_kept_where_checked CHECK ((balance_minor IS NOT NULL) = (kind IN ('wallet', 'held')))
) WITH (fillfactor = 80);
CREATE INDEX account_of_owner ON ledger_account (kind, owner);

-- Balanced, immutable journal records; one effect has one key.
CREATE TABLE ledger_entry (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  source_id text NOT NULL,
  version integer NOT NULL,
  session_id uuid REFERENCES charging_session (id) DEFERRABLE INITIALLY DEFERRED,
  reason text NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  CONSTRAINT entry_once UNIQUE (kind, source_id, version)
);
CREATE INDEX entry_of_session ON ledger_entry (session_id) WHERE session_id IS NOT NULL;

-- The lines of an entry; balance_after is the account's balance behind it, where one is kept.
CREATE TABLE ledger_posting (
  entry_id bigint NOT NULL REFERENCES ledger_entry (id),
  line smallint NOT NULL,
  account_id bigint NOT NULL REFERENCES ledger_account (id),
  side char(1) NOT NULL CONSTRAINT posting_side_known CHECK (side IN ('D', 'C')),
  amount_minor bigint NOT NULL CONSTRAINT posting_positive CHECK (amount_minor > 0),
  balance_after bigint,
  PRIMARY KEY (entry_id, line)
);
CREATE INDEX posting_of_account ON ledger_posting (account_id, entry_id) INCLUDE (side, amount_minor);

-- One settlement a session and version: the inputs that were priced, and the totals of all versions up to this one.
CREATE TABLE settlement (
  session_id uuid NOT NULL REFERENCES charging_session (id),
  version integer NOT NULL,
  energy_wh bigint NOT NULL,
  price_per_kwh_minor numeric(14, 4) NOT NULL,
  fee_percent numeric(6, 3) NOT NULL,
  currency char(3) NOT NULL,
  paid_minor bigint NOT NULL,
  cost_minor bigint NOT NULL,
  covered_minor bigint NOT NULL,
  refund_minor bigint NOT NULL CONSTRAINT settlement_refund_not_negative CHECK (refund_minor >= 0),
  owed_minor bigint NOT NULL,
  fee_minor bigint NOT NULL,
  share_minor bigint NOT NULL,
  entry_id bigint REFERENCES ledger_entry (id),
  settled_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT settlement_once PRIMARY KEY (session_id, version),
  CONSTRAINT settlement_cost_is_split CHECK (cost_minor = fee_minor + share_minor),
  CONSTRAINT settlement_cost_is_covered CHECK (cost_minor = covered_minor + owed_minor),
  CONSTRAINT settlement_paid_is_accounted CHECK (paid_minor = covered_minor + refund_minor)
);

-- Work that must happen once; a row is written with its cause. It is locked by the very unit of work that does it, so a
-- worker that dies gives it back at once and a worker that sleeps cannot do it twice.
CREATE TABLE job (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  subject text NOT NULL,
  version integer NOT NULL,
  state text NOT NULL DEFAULT 'waiting' CONSTRAINT job_state_known CHECK (state IN ('waiting', 'done', 'held')),
  attempts integer NOT NULL DEFAULT 0,
  run_after timestamptz NOT NULL DEFAULT now(),
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  done_at timestamptz,
  CONSTRAINT job_once UNIQUE (kind, subject, version)
) WITH (fillfactor = 80);
CREATE INDEX job_waiting ON job (run_after, id) WHERE state = 'waiting';

-- Effects outside the database, sent at least once after the commit that caused them.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  effect_key text NOT NULL CONSTRAINT outbox_once UNIQUE,
  target text NOT NULL,
  payload jsonb NOT NULL,
  state text NOT NULL DEFAULT 'waiting' CONSTRAINT outbox_state_known CHECK (state IN ('waiting', 'sent')),
  attempts integer NOT NULL DEFAULT 0,
  run_after timestamptz NOT NULL DEFAULT now(),
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_waiting ON outbox (run_after, id) WHERE state = 'waiting';

-- What we asked of stations, and how it went; effect_key makes an automatic ask happen once. neutral: action and payload
-- are a command of the domain, translated when it is sent; otherwise they go out as they are.
CREATE TABLE command (
  id uuid PRIMARY KEY,
  station_id text NOT NULL REFERENCES station (id) ON DELETE CASCADE,
  effect_key text CONSTRAINT command_once UNIQUE,
  session_id uuid,
  neutral boolean NOT NULL DEFAULT false,
  action text NOT NULL,
  payload text NOT NULL,
  state text NOT NULL CONSTRAINT command_state_known
    CHECK (state IN ('queued', 'sending', 'answered', 'call_error', 'timeout', 'not_connected', 'unknown', 'expired')),
  epoch bigint,
  response text,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  sent_at timestamptz,
  answered_at timestamptz
);
CREATE INDEX command_queued ON command (station_id, created_at) WHERE state IN ('queued', 'sending');

-- Reasons to doubt data, and repairs; one row a key.
CREATE TABLE finding (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  key text NOT NULL CONSTRAINT finding_once UNIQUE,
  state text NOT NULL CONSTRAINT finding_state_known CHECK (state IN ('open', 'repaired', 'noted', 'dismissed')),
  station_id text NOT NULL,
  evse_id integer,
  session_id uuid,
  summary text NOT NULL,
  evidence jsonb NOT NULL DEFAULT '{}',
  found_at timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz
);
CREATE INDEX finding_newest ON finding (id DESC) INCLUDE (state);
CREATE INDEX finding_open ON finding (kind) WHERE state = 'open';

-- What happened, for people and programs that listen; read in the order of commits through xid.
CREATE TABLE feed (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind text NOT NULL,
  station_id text,
  session_id uuid,
  payload jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX feed_order ON feed (xid, id);

-- The right to run a loop, for a time; fence grows with each holder.
CREATE TABLE lease (
  name text PRIMARY KEY,
  holder text NOT NULL,
  fence bigint NOT NULL,
  held_until timestamptz NOT NULL
);

-- Each periodic run, once a period whatever the number of nodes.
CREATE TABLE job_run (
  job text NOT NULL,
  period_start timestamptz NOT NULL,
  node text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  duration_s double precision,
  outcome text,
  CONSTRAINT job_run_once PRIMARY KEY (job, period_start)
);

-- Keys to the API; only a hash is kept.
CREATE TABLE api_key (
  id text PRIMARY KEY,
  key_hash bytea NOT NULL CONSTRAINT api_key_once UNIQUE,
  role text NOT NULL CONSTRAINT api_key_role_known CHECK (role IN ('viewer', 'operator', 'finance', 'admin', 'driver')),
  name text NOT NULL DEFAULT '',
  driver_id text REFERENCES driver (id),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz
);

-- Answers already given to requests with an Idempotency-Key.
CREATE TABLE api_idempotency (
  actor text NOT NULL,
  key text NOT NULL,
  request_hash bytea NOT NULL,
  status smallint NOT NULL,
  response bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT api_idempotency_once PRIMARY KEY (actor, key)
);

-- --- rules of the books, kept by the database -----------------------------------------------------

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on % refused: posted records are never changed; post a correction', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER entry_never_changes BEFORE UPDATE OR DELETE ON ledger_entry FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entry_never_truncated BEFORE TRUNCATE ON ledger_entry FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER posting_never_changes BEFORE UPDATE OR DELETE ON ledger_posting FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER posting_never_truncated BEFORE TRUNCATE ON ledger_posting FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER settlement_never_changes BEFORE UPDATE OR DELETE ON settlement FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER settlement_never_truncated BEFORE TRUNCATE ON settlement FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Debits equal credits in each currency of an entry, checked at commit, whoever wrote it.
CREATE FUNCTION check_entry_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wanted bigint;
BEGIN
  IF TG_TABLE_NAME = 'ledger_entry' THEN wanted := NEW.id; ELSE wanted := NEW.entry_id; END IF;
  IF NOT EXISTS (SELECT 1 FROM ledger_posting WHERE entry_id = wanted)
     OR EXISTS (
       SELECT 1 FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id
       WHERE p.entry_id = wanted
       GROUP BY a.currency
       HAVING sum(CASE p.side WHEN 'D' THEN p.amount_minor ELSE -p.amount_minor END) <> 0
     ) THEN
    RAISE EXCEPTION 'ledger entry % does not balance', wanted
      USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_balances';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entry_balances AFTER INSERT ON ledger_entry
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_entry_balanced();
-- Again for each line, so that none slips in after its entry was checked early in the same unit of work.
CREATE CONSTRAINT TRIGGER posting_balances AFTER INSERT ON ledger_posting
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_entry_balanced();

-- Lines are written with their entry, never added to an older one.
CREATE FUNCTION check_posting_with_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM ledger_entry WHERE id = NEW.entry_id AND xid = pg_current_xact_id()) THEN
    RAISE EXCEPTION 'a posting may only be written together with its entry'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_with_its_entry';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER posting_with_its_entry BEFORE INSERT ON ledger_posting
  FOR EACH ROW EXECUTE FUNCTION check_posting_with_entry();

-- --- the names of the user's document --------------------------------------------------------------

-- Minor units as an amount of the currency itself (123 of INR: 1.23; of JPY: 123).
CREATE FUNCTION major_units(amount numeric, currency text) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT CASE
    WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND', 'VUV',
                      'XAF', 'XOF', 'XPF') THEN amount
    WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN round(amount / 1000, 7)
    ELSE round(amount / 100, 6)
  END
$$;

CREATE VIEW "ChargePoint" AS
SELECT id, status, organization_id AS "organizationId", vendor, model, serial AS "serialNumber",
       firmware AS "firmwareVersion", connectors AS "connectorCount", last_seen_at AS "lastSeenAt", created_at AS "createdAt"
FROM station;

-- Updatable for what people change by hand; figures that follow from others are read-only.
CREATE VIEW "ChargeSession" AS
SELECT id, status, station_id AS "chargePointId", evse_id AS "connectorId", transaction_ref AS "transactionId",
       token AS "idTag", driver_id AS "userId", organization_id AS "organizationId",
       started_at AS "startTime", ended_at AS "endTime", meter_start_wh AS "meterStart", meter_stop_wh AS "meterStop",
       round(energy_wh / 1000.0, 3) AS "energyConsumed",
       round(major_units(price_per_kwh_minor, currency), 4) AS "pricePerKWh",
       round(major_units(paid_minor, currency), 3) AS "totalPaid",
       round(major_units(refunded_minor, currency), 3) AS "refundAmount",
       currency, stop_reason AS "stopReason", created_at AS "createdAt"
FROM charging_session
WHERE status <> 'PENDING';

CREATE VIEW "WalletTransaction" AS
SELECT e.id::text || '-' || p.line AS id, a.owner AS "userId",
       CASE e.kind WHEN 'topup' THEN 'TOPUP' WHEN 'hold' THEN 'HOLD' ELSE 'REFUND' END AS type,
       round(major_units(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END, a.currency), 3) AS amount,
       round(major_units(p.balance_after, a.currency), 3) AS "balanceAfter",
       a.currency, e.kind || ':' || e.source_id || ':' || e.version AS reference,
       e.session_id AS "chargeSessionId", e.recorded_at AS "createdAt"
FROM ledger_posting p
JOIN ledger_account a ON a.id = p.account_id AND a.kind = 'wallet'
JOIN ledger_entry e ON e.id = p.entry_id;

-- --- rights ------------------------------------------------------------------------------------

-- The server works as voltledger_app, which may not change or remove what was posted. Where the migrating role may not
-- create roles, the triggers above still refuse it.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'voltledger_app') THEN
    BEGIN
      CREATE ROLE voltledger_app NOLOGIN NOSUPERUSER NOBYPASSRLS;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN NULL;
      WHEN insufficient_privilege THEN RAISE NOTICE 'role voltledger_app not created: no right to create roles';
    END;
  END IF;
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'voltledger_app') THEN
    BEGIN
      EXECUTE format('GRANT voltledger_app TO %I', current_user);
    EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'role voltledger_app not granted: %', SQLERRM;
    END;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO voltledger_app', current_schema());
    GRANT SELECT, INSERT, UPDATE, DELETE ON
      organization, driver, tariff, station, station_owner, connector, token, charging_session, inbox, frame, reading,
      stray_reading, job, outbox, command, finding, feed, lease, job_run, api_key, api_idempotency TO voltledger_app;
    GRANT SELECT, INSERT ON ledger_entry, ledger_posting, settlement TO voltledger_app;
    GRANT SELECT, INSERT ON ledger_account TO voltledger_app;
    GRANT UPDATE (balance_minor) ON ledger_account TO voltledger_app;
    GRANT SELECT ON installation, "ChargePoint", "ChargeSession", "WalletTransaction" TO voltledger_app;
    GRANT UPDATE ON "ChargePoint", "ChargeSession" TO voltledger_app;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO voltledger_app;
  END IF;
END $$;
