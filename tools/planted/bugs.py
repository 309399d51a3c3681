"""The planted bugs, in the order of the list in the promises (S-03), then some of our own.

Each is as small an edit of `src/voltledger` as makes the fault real, with the quickest tests that must notice it.
An edit whose old text is not found exactly once fails loudly: the table follows the code. Where the list names a part
that this design does not have, the nearest fault that it permits is planted, and `instead` says so: there is no
counter in Redis, no heartbeat and no advisory lock here; jobs are locked by the unit of work that does them (ADR 0004),
loops run under a lease and a row a period.
"""

from dataclasses import dataclass

STORAGE = "tests/integration/storage"
GATEWAY = "tests/integration/gateway"
DOMAIN = "tests/unit/domain"
SERVICES = "tests/unit/services"
LISTED = 30
"""The first so many are those of the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A replacement in one file under `src/voltledger`; `old` is there exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One planted bug.

    `breaks` says in a sentence what goes wrong, `instead` what the list calls something else. `tests` are node ids
    of pytest, the quickest first. A failed assertion is the right reason to fail, or one of `shows_as`.
    """

    number: int
    name: str
    breaks: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    instead: str = ""
    shows_as: tuple[str, ...] = ()


_SENT_AWAY = "                await self._send_away(TRY_AGAIN_LATER)\n                return\n"
_WORK_WITH_DATABASE = (
    Edit(
        file="storage/postgres/settlements.py",
        old="yield PostgresSettlementWork(connection)",
        new="yield PostgresSettlementWork(connection, self._database)",
    ),
    Edit(
        file="storage/postgres/settlements.py",
        old="    def __init__(self, connection: Connection) -> None:\n",
        new=(
            "    def __init__(self, connection: Connection, database: Database) -> None:\n"
            "        self._database = database\n"
        ),
    ),
)


def _after_t2(line: str) -> Edit:
    """What `record` left in `later` is done behind T2, in a unit of work of its own."""
    return Edit(
        file="storage/postgres/settlements.py",
        old="                yield PostgresSettlementWork(connection)\n",
        new=(
            "                work = PostgresSettlementWork(connection)\n"
            "                work.later = []\n"
            "                yield work\n"
            "            if work.later:\n"
            "                async with self._database.unit_of_work() as connection:\n"
            f"                    {line}\n"
        ),
    )


BUGS: tuple[Bug, ...] = (
    Bug(
        number=1,
        name="answer before commit",
        breaks="A station is answered inside T1; a crash before the commit loses a fact that it will not say again.",
        edits=(
            Edit(
                file="services/intake.py",
                old="            await _adopt_refs(work, batch)\n",
                new="            await _adopt_refs(work, batch)\n            self._answer(batch, known, assembly)\n",
            ),
            Edit(
                file="services/intake.py",
                old="        self._on_commit_size(len(new))\n        self._answer(batch, known, assembly)\n",
                new="        self._on_commit_size(len(new))\n",
            ),
        ),
        tests=(f"{SERVICES}/test_intake.py::test_nothing_is_answered_before_it_is_committed",),
    ),
    Bug(
        number=2,
        name="dedupe on messageId only",
        breaks="The message id alone names a fact: another station's fact gets the answer of the first one's.",
        edits=(
            Edit(
                file="gateway/connection.py",
                old="dedupe_key=inbound.dedupe_key if inbound",
                new="dedupe_key=call.message_id.encode() if inbound",
            ),
            Edit(
                file="storage/postgres/migrations/0001_pre_first.sql",
                old="CONSTRAINT inbox_once PRIMARY KEY (station_id, dedupe_key)",
                new="CONSTRAINT inbox_once PRIMARY KEY (dedupe_key)",
            ),
            Edit(
                file="storage/postgres/sql/facts.sql",
                old=(
                    "WHERE i.station_id = k.station_id AND i.dedupe_key = k.dedupe_key\n"
                    "RETURNING i.station_id, i.dedupe_key, i.response"
                ),
                new="WHERE i.dedupe_key = k.dedupe_key\nRETURNING k.station_id, k.dedupe_key, i.response",
            ),
        ),
        tests=(f"{GATEWAY}/test_message_ids.py::test_stations_that_use_the_same_ids_are_not_mixed_up",),
    ),
    Bug(
        number=3,
        name="dedupe on (station, messageId) across reconnects",
        breaks="A station whose ids begin at 1 with each socket loses every fact after its first visit.",
        edits=(
            Edit(
                file="gateway/connection.py",
                old="dedupe_key=inbound.dedupe_key if inbound",
                new='dedupe_key=f"{call.action} {call.message_id}".encode() if inbound',
            ),
        ),
        tests=(f"{GATEWAY}/test_message_ids.py::test_ids_that_begin_at_1_again_with_each_socket_lose_nothing",),
    ),
    Bug(
        number=4,
        name="no dedupe",
        breaks="The time of receipt is part of a fact's identity: every repeat is a new fact.",
        edits=(
            Edit(
                file="ocpp/registry.py",
                old="            _digest(prefix, IDENTITY.encode(content)),\n",
                new="            _digest(prefix, IDENTITY.encode(content) + received_at.isoformat().encode()),\n",
            ),
        ),
        tests=("tests/unit/ocpp/test_v16_reading.py::test_the_key_does_not_depend_on_the_time_of_receipt",),
    ),
    Bug(
        number=5,
        name="in-memory dedupe set",
        breaks="What was said before is known to one run of one node only; after a restart a repeat is a new fact.",
        edits=(
            Edit(
                file="services/intake.py",
                old="            known = await work.answered(keys) if look_first else {}\n",
                new="            known = {key: self._said[key] for key in keys if key in self._said}\n",
            ),
            Edit(
                file="services/intake.py",
                old="        self._tasks: list[asyncio.Task[None]] = []\n",
                new="        self._tasks: list[asyncio.Task[None]] = []\n        self._said: dict[FactKey, str] = {}\n",
            ),
            Edit(
                file="services/intake.py",
                old="            _resolve(waiting, response)\n        if ARMED",
                new=(
                    "            if key is not None:\n"
                    "                self._said[key] = response\n"
                    "            _resolve(waiting, response)\n        if ARMED"
                ),
            ),
            Edit(
                file="storage/postgres/sql/facts.sql",
                old="$7::timestamptz[], $8::text[])\n\n-- name: frames_insert",
                new="$7::timestamptz[], $8::text[])\nON CONFLICT DO NOTHING\n\n-- name: frames_insert",
            ),
        ),
        tests=(
            f"{STORAGE}/test_repeats.py::test_a_repeat_that_another_node_hears_gets_the_stored_answer_and_is_counted",
        ),
    ),
    Bug(
        number=6,
        name="transactionId from Redis INCR",
        breaks="Transaction ids come from a counter that begins anew when it is lost: two sessions get the same id.",
        instead="no id comes from Redis; the counter is one in memory, which a restart or another node begins anew",
        edits=(
            Edit(
                file="storage/postgres/facts.py",
                old="        self._transaction_key: bytes | None = None\n",
                new="        self._transaction_key: bytes | None = None\n        self._given = 0\n",
            ),
            Edit(
                file="storage/postgres/facts.py",
                old='numbers = [row[0] for row in await connection.fetch(SQL["transaction_numbers"], count)]\n',
                new=("numbers = range(self._given + 1, self._given + count + 1)\n            self._given += count\n"),
            ),
        ),
        tests=(f"{STORAGE}/test_repeats.py::test_no_two_nodes_and_no_two_runs_draw_the_same_transaction_id",),
    ),
    Bug(
        number=7,
        name="transactionId from max()+1",
        breaks="The next transaction id follows from the sessions that there are: two who look at once draw the same.",
        instead="ids are permuted numbers; they follow from the count of the sessions instead of their highest id",
        edits=(
            Edit(
                file="storage/postgres/sql/facts.sql",
                old="SELECT nextval('transaction_number') FROM generate_series(1, $1)",
                new="SELECT (SELECT count(*) FROM charging_session) + n FROM generate_series(1, $1) AS n",
            ),
        ),
        tests=(f"{STORAGE}/test_repeats.py::test_no_two_nodes_and_no_two_runs_draw_the_same_transaction_id",),
    ),
    Bug(
        number=8,
        name="CALLERROR on DB down",
        breaks="What cannot be recorded is refused: the station counts an attempt and at last discards the fact.",
        edits=(
            Edit(
                file="gateway/connection.py",
                old=_SENT_AWAY,
                new="                await self._refuse(call)\n",
            ),
        ),
        tests=(
            f"{GATEWAY}/test_not_recorded.py"
            "::test_a_fact_that_cannot_be_recorded_closes_the_socket_with_1013_and_is_not_answered",
        ),
    ),
    Bug(
        number=9,
        name="silent drop on DB down",
        breaks="What cannot be recorded is forgotten on an open socket: the station waits in vain, again and again.",
        edits=(
            Edit(
                file="gateway/connection.py",
                old=_SENT_AWAY,
                new="                continue\n",
            ),
        ),
        tests=(
            f"{GATEWAY}/test_not_recorded.py"
            "::test_a_fact_that_cannot_be_recorded_closes_the_socket_with_1013_and_is_not_answered",
        ),
    ),
    Bug(
        number=10,
        name="drop frames of old epoch",
        breaks="Facts that come on a socket which a newer one has replaced are thrown away.",
        edits=(
            Edit(
                file="gateway/registry.py",
                old="        recent = self._takeovers.setdefault(",
                new="        older.epoch = -2\n        recent = self._takeovers.setdefault(",
            ),
            Edit(
                file="gateway/connection.py",
                old="        frame = decode_frame(message, self.dialect.version)\n",
                new=(
                    "        if self.epoch == -2:\n"
                    "            return\n"
                    "        frame = decode_frame(message, self.dialect.version)\n"
                ),
            ),
        ),
        tests=(
            f"{GATEWAY}/test_message_ids.py"
            "::test_what_an_older_socket_says_after_a_newer_one_took_over_is_recorded_and_answered",
        ),
    ),
    Bug(
        number=11,
        name="apply status of old epoch",
        breaks="The late close of an old socket takes a station offline that has long been connected elsewhere.",
        edits=(
            Edit(
                file="storage/postgres/sql/live.sql",
                old="WHERE station_id = $1 AND epoch = $2 RETURNING station_id",
                new="WHERE station_id = $1 AND $2::bigint IS NOT NULL RETURNING station_id",
            ),
        ),
        tests=(f"{STORAGE}/test_live.py::test_the_release_of_an_old_epoch_does_not_touch_a_newer_one",),
    ),
    Bug(
        number=12,
        name="settle without unique key",
        breaks="Nothing but the good manners of the workers keeps a session from being settled twice in one version.",
        edits=(
            Edit(
                file="storage/postgres/migrations/0001_pre_first.sql",
                old="  CONSTRAINT settlement_once PRIMARY KEY (session_id, version),\n",
                new="",
            ),
        ),
        tests=(f"{STORAGE}/test_books.py::test_a_session_is_settled_once_in_each_version",),
    ),
    Bug(
        number=13,
        name="settle + ledger in two transactions",
        breaks="The settlement is committed before its entry is posted; a crash between them never posts it.",
        edits=(
            _after_t2("await post_entries(connection, work.later)"),
            Edit(
                file="storage/postgres/settlements.py",
                old="        ids = await post_entries(self._connection, entries)\n",
                new="        ids: list[int] = []\n        self.later.extend(entries)\n",
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py"
            "::test_a_settlement_is_whole_after_how_many_connections_ever_the_database_goes_away[1]",
        ),
    ),
    Bug(
        number=14,
        name="retry COMMIT without key",
        breaks="A top-up whose commit lost its answer is posted again by the retry, under a key of its own.",
        edits=(
            Edit(
                file="services/catalog/people.py",
                old='text_of("key", key, most=200) if key is not None else secrets.token_hex(16)',
                new="secrets.token_hex(16)",
            ),
        ),
        tests=("tests/integration/api/test_routes.py::test_the_same_top_up_sent_five_times_at_once_is_one_entry",),
    ),
    Bug(
        number=15,
        name="hold released outside T2",
        breaks="What was not used goes back in a unit of work behind T2; a crash between them keeps it for ever.",
        edits=(
            _after_t2("await post_entries(connection, work.later)"),
            Edit(
                file="storage/postgres/settlements.py",
                old="        entries = () if settlement.entry is None else (settlement.entry,)\n",
                new="        entries = () if settlement.entry is None else self._apart(settlement)\n",
            ),
            Edit(
                file="storage/postgres/settlements.py",
                old="\n\ndef _settled_of(row: asyncpg.Record) -> Settled:\n",
                new=(
                    "\n"
                    "    def _apart(self, settlement: Settlement) -> tuple[Entry, ...]:\n"
                    "        entry = settlement.entry\n"
                    "        back = [p for p in entry.postings if p.account.kind == 'wallet' and p.side == 'C']\n"
                    "        from_hold = [p for p in entry.postings if p.account.kind == 'held' and p.side == 'D']\n"
                    "        if len(back) != 1 or len(from_hold) != 1 or back[0].amount >= from_hold[0].amount:\n"
                    "            return (entry,)\n"
                    "        kept = replace(from_hold[0], amount=from_hold[0].amount - back[0].amount)\n"
                    "        given = replace(from_hold[0], amount=back[0].amount)\n"
                    "        rest = [p for p in entry.postings if p is not back[0] and p is not from_hold[0]]\n"
                    "        self.later.append(\n"
                    "            replace(entry, kind=EntryKind.RELEASE, reason='release', postings=(given, back[0]))\n"
                    "        )\n"
                    "        return (replace(entry, postings=(kept, *rest)),)\n"
                    "\n\ndef _settled_of(row: asyncpg.Record) -> Settled:\n"
                ),
            ),
            Edit(
                file="storage/postgres/settlements.py",
                old="from uuid import UUID\n",
                new=(
                    "from dataclasses import replace\n"
                    "from uuid import UUID\n"
                    "\n"
                    "from voltledger.domain.ledger.entries import Entry, EntryKind\n"
                ),
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py"
            "::test_a_settlement_is_whole_after_how_many_connections_ever_the_database_goes_away[1]",
        ),
    ),
    Bug(
        number=16,
        name="float price",
        breaks="Energy times price is computed in binary fractions, and halves of a minor unit go astray.",
        edits=(
            Edit(
                file="domain/billing/charges.py",
                old="    return round_minor(price.per_kwh_minor * energy / 1000)\n",
                new="    return round_minor(Decimal(float(price.per_kwh_minor) * energy / 1000))\n",
            ),
        ),
        tests=(f"{DOMAIN}/test_exact_halves.py::test_half_a_minor_unit_of_energy_always_rounds_up",),
    ),
    Bug(
        number=17,
        name="rounding per line and per total",
        breaks="The organisation's part is rounded on its own, so that the parts are not always the whole.",
        edits=(
            Edit(
                file="domain/billing/charges.py",
                old="        share=Minor(cost - fee),\n",
                new="        share=round_minor(cost * (100 - fee_percent) / 100),\n",
            ),
        ),
        tests=(f"{DOMAIN}/test_charges.py::test_a_session_is_charged_as_worked_out_by_hand",),
    ),
    Bug(
        number=18,
        name="late Stop edits instead of adjusts",
        breaks="The true end of a session that we had closed changes its row, and no money follows.",
        edits=(
            Edit(
                file="domain/session/ends.py",
                old="        settle=(ended,),\n",
                new="        settle=() if was_concluded else (ended,),\n",
            ),
        ),
        tests=(f"{DOMAIN}/test_ends.py::test_the_true_end_of_a_ghost_corrects_its_energy_in_both_directions",),
    ),
    Bug(
        number=19,
        name="reconciler closes a session with queued messages",
        breaks="Ghosts are judged although facts of their station wait in a journal and are not in the books yet.",
        edits=(
            Edit(
                file="services/sync.py",
                old="        candidates = [c for c in found if self._may_judge(c[1])]\n",
                new="        candidates = list(found)\n",
            ),
        ),
        tests=(f"{STORAGE}/test_repairs.py::test_a_station_whose_facts_wait_elsewhere_is_left_alone_by_every_pass",),
    ),
    Bug(
        number=20,
        name="outbox marked before send",
        breaks="Effects are marked as sent and then sent; what dies in between is never sent.",
        edits=(
            Edit(
                file="storage/postgres/outbox.py",
                old="            outcome, failed = await _send_each(rows, send)\n",
                new=(
                    '            await connection.execute(SQL["outbox_sent"], [row["id"] for row in rows])\n'
                    "        outcome, failed = await _send_each(rows, send)\n"
                    "        async with self._database.unit_of_work() as connection:\n"
                ),
            ),
        ),
        tests=(f"{STORAGE}/test_units_of_work.py::test_an_effect_is_marked_only_after_it_was_sent",),
    ),
    Bug(
        number=21,
        name="outbox in own transaction",
        breaks="The word for the cache is written behind T2; a crash between them never clears the session's events.",
        edits=(
            _after_t2('await connection.execute(SQL["outbox_insert"], *work.later)'),
            Edit(
                file="storage/postgres/settlements.py",
                old=(
                    "        await self._connection.execute(\n"
                    '            SQL["outbox_insert"],\n'
                    '            f"clear_events:{session.id}:{settled.version}",\n'
                    '            "clear_events",\n'
                    "            clear_events(session),\n"
                    "        )\n"
                ),
                new=(
                    "        self.later.extend(\n"
                    '            (f"clear_events:{session.id}:{settled.version}", "clear_events",\n'
                    "             clear_events(session))\n"
                    "        )\n"
                ),
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py"
            "::test_a_settlement_is_whole_after_how_many_connections_ever_the_database_goes_away[1]",
        ),
    ),
    Bug(
        number=22,
        name="job claimed without SKIP LOCKED",
        breaks="Two workers take the same settlement at once.",
        edits=(
            Edit(
                file="storage/postgres/sql/settle.sql",
                old="ORDER BY run_after, id LIMIT 1 FOR UPDATE SKIP LOCKED",
                new="ORDER BY run_after, id LIMIT 1",
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py"
            "::test_a_job_that_one_worker_does_is_another_workers_neither_to_do_nor_to_wait_for",
        ),
    ),
    Bug(
        number=23,
        name="heartbeat lost => job never rescued",
        breaks="A job is marked as taken in a transaction of its own, and stays so when its worker dies.",
        instead="there is no heartbeat: a job is locked by the unit of work that does it, and here it is not any more",
        edits=(
            *_WORK_WITH_DATABASE,
            Edit(
                file="storage/postgres/settlements.py",
                old='        row = await self._connection.fetchrow(SQL["settle_job_next"])\n',
                new=(
                    "        async with self._database.connection() as claiming:\n"
                    '            row = await claiming.fetchrow(SQL["settle_job_next"])\n'
                ),
            ),
            Edit(
                file="storage/postgres/sql/settle.sql",
                old="SELECT id, subject, version FROM job\nWHERE kind = 'settle'",
                new=("UPDATE job SET run_after = 'infinity' WHERE id IN (\nSELECT id FROM job\nWHERE kind = 'settle'"),
            ),
            Edit(
                file="storage/postgres/sql/settle.sql",
                old="ORDER BY run_after, id LIMIT 1 FOR UPDATE SKIP LOCKED",
                new="ORDER BY run_after, id LIMIT 1 FOR UPDATE SKIP LOCKED)\nRETURNING id, subject, version",
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py"
            "::test_a_settlement_that_dies_at_any_point_leaves_nothing_and_is_done_by_the_next_worker[t2.priced]",
        ),
    ),
    Bug(
        number=24,
        name="rescue while still running, no fence",
        breaks="A node takes the lease over although its holder is alive and at work.",
        instead="jobs need no rescue (ADR 0004); what is taken over is the lease of the loops",
        edits=(
            Edit(
                file="storage/postgres/sql/sync.sql",
                old="WHERE l.holder = EXCLUDED.holder OR l.held_until < now()\n",
                new="WHERE l.holder = EXCLUDED.holder OR l.held_until < EXCLUDED.held_until\n",
            ),
        ),
        tests=(f"{STORAGE}/test_live.py::test_a_lease_is_held_by_one_and_its_fence_rises_with_each_holder",),
    ),
    Bug(
        number=25,
        name="advisory-lock leader without effect key",
        breaks="Whoever believes to lead does a period's run, also when another has done it.",
        instead="the leader holds a lease, and `job_run` is the effect's key, which is not heeded here",
        edits=(
            Edit(
                file="storage/postgres/sql/sync.sql",
                old="VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING job\n",
                new=(
                    "VALUES ($1, $2, $3)\n"
                    "ON CONFLICT (job, period_start) DO UPDATE SET node = EXCLUDED.node RETURNING job\n"
                ),
            ),
        ),
        tests=(f"{STORAGE}/test_live.py::test_a_periodic_run_happens_once_a_period_whatever_the_number_of_nodes",),
    ),
    Bug(
        number=26,
        name="-1 stop matched to any open session",
        breaks="An end that names no transaction ends the oldest session that runs, whosever it is.",
        edits=(
            Edit(
                file="domain/session/ends.py",
                old="    candidates = [s for s in book.running() if _could_end_by(s, event)]\n",
                new="    candidates = book.running()\n",
            ),
            Edit(
                file="domain/session/ends.py",
                old="    return candidates[0] if len(candidates) == 1 else None\n",
                new="    return candidates[0] if candidates else None\n",
            ),
        ),
        tests=(f"{DOMAIN}/test_ends.py::test_an_end_without_a_transaction_is_not_matched_with",),
    ),
    Bug(
        number=27,
        name="Stop ends a session of another station",
        breaks="A transaction id is looked up without its station, and whoever names it ends the session.",
        edits=(
            Edit(
                file="storage/postgres/sql/facts.sql",
                old="JOIN charging_session s ON s.station_id = k.station_id AND s.transaction_ref = k.transaction_ref)",
                new="JOIN charging_session s ON s.transaction_ref = k.transaction_ref)",
            ),
            Edit(
                file="storage/postgres/facts.py",
                old="            books[session.station_id].put(session)\n\n    async def _load_named",
                new=(
                    "            for book in books.values():\n"
                    "                book.put(session)\n\n    async def _load_named"
                ),
            ),
        ),
        tests=(f"{STORAGE}/test_facts.py::test_an_end_of_another_stations_transaction_ends_nothing",),
    ),
    Bug(
        number=28,
        name="MeterValues counted into energy",
        breaks="The steps of the readings and the whole between start and stop are both billed.",
        edits=(
            Edit(
                file="domain/session/ends.py",
                old="energy_wh=Wh(session.energy_wh + step.energy_wh)",
                new="energy_wh=Wh(session.energy_wh + final - (session.meter_start_wh or 0))",
            ),
        ),
        tests=(f"{DOMAIN}/test_ends.py::test_a_session_from_start_to_end_costs_what_its_registers_say",),
    ),
    Bug(
        number=29,
        name="cancellation between insert and commit swallowed",
        breaks="A unit of work that is cancelled half-way is committed as it stands, and nobody hears of it.",
        edits=(
            Edit(
                file="storage/postgres/pool.py",
                old="                raise\n            except BaseException:\n",
                new="                pass\n            except BaseException:\n",
            ),
        ),
        tests=(
            f"{STORAGE}/test_units_of_work.py::test_a_unit_of_work_that_is_cancelled_before_its_commit_leaves_nothing",
        ),
    ),
    Bug(
        number=30,
        name="`except Exception: pass` around the handler",
        breaks="A call that our own code fails on is never answered, and the station waits for it for ever.",
        edits=(
            Edit(
                file="gateway/connection.py",
                old="                if not await self._after_mistake(call, error):\n                    return\n",
                new="                pass\n",
            ),
        ),
        tests=(
            f"{GATEWAY}/test_connection.py"
            "::test_a_mistake_of_ours_with_one_call_is_told_and_the_calls_behind_it_are_answered",
        ),
        shows_as=("TimeoutError",),
    ),
    # --- of our own ------------------------------------------------------------------------------------------
    Bug(
        number=31,
        name="facts pass by those that wait in the journal",
        breaks="When the database is back, a station's new facts are recorded before its older ones in the journal.",
        edits=(
            Edit(
                file="services/ladder.py",
                old="        return self._away or station_id in self._pending\n",
                new="        return self._away\n",
            ),
        ),
        tests=(
            f"{SERVICES}/test_ladder_order.py"
            "::test_what_a_station_says_while_its_start_still_waits_in_the_journal_does_not_pass_it_by",
        ),
    ),
    Bug(
        number=32,
        name="a repeat in the journal is answered anew",
        breaks="A start that comes again during an outage is told another transaction id than the first time.",
        edits=(
            Edit(
                file="storage/sqlite/journal.py",
                old="response = fact.response if inserted else self._answer_of(fact)",
                new="response = fact.response",
            ),
        ),
        tests=(
            "tests/integration/journal/test_file.py::test_a_fact_said_again_is_kept_once_and_gets_its_first_answer",
        ),
    ),
    Bug(
        number=33,
        name="money that waits for a register goes back at once",
        breaks="A session of which nothing is known but its end is settled as if nothing had been used.",
        edits=(
            Edit(
                file="services/settling.py",
                old="        if session.suspect:\n",
                new="        if session.suspect and session.settle_version > 0:\n",
            ),
        ),
        tests=(
            f"{STORAGE}/test_facts.py"
            "::test_an_end_that_cannot_be_believed_waits_for_a_person_and_is_not_taken_for_a_change_by_hand",
        ),
    ),
    Bug(
        number=34,
        name="a status of yesterday counts",
        breaks="A status that waited in a station's queue overrules the one that it sent before from today.",
        edits=(
            Edit(
                file="domain/session/connectors.py",
                old="    return report.at.at < recorded.occurred_at and received_at - report.at.at > FRESH\n",
                new="    return False\n",
            ),
        ),
        tests=(f"{DOMAIN}/test_connectors.py::test_a_report_is_stale_only_if_it_tells_of_the_past",),
    ),
    Bug(
        number=35,
        name="whoever got in once gets in during an outage",
        breaks="A station that was disabled is remembered as it was, and may come in while the database is away.",
        edits=(
            Edit(
                file="services/admission.py",
                old="        if access is not None:\n            self._remembered[station_id.lower()] = access\n",
                new=(
                    "        if access is not None:\n"
                    "            self._remembered.setdefault(station_id.lower(), access)\n"
                ),
            ),
        ),
        tests=(f"{SERVICES}/test_admission.py::test_a_station_that_was_disabled_stays_out_while_the_database_is_away",),
    ),
    Bug(
        number=36,
        name="a node commands stations that another holds",
        breaks="A node that slept past its lease sends commands to stations that have moved to another node.",
        edits=(
            Edit(
                file="storage/postgres/sql/live.sql",
                old="o.station_id = c.station_id AND o.node = $2 AND o.disconnected_at IS NULL\n",
                new="o.station_id = c.station_id AND $2::text IS NOT NULL\n",
            ),
        ),
        tests=(f"{STORAGE}/test_live.py::test_a_command_is_not_claimed_where",),
    ),
)
