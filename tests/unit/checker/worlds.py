"""A clean world to plant differences in: two visits that ended, one that goes on, their books, and what others saw."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from tests.unit.checker.stations import Scribe, Visit
from voltledger.checker import World
from voltledger.checker.content import content_of
from voltledger.checker.dump import (
    Account,
    ConnectorRow,
    Dump,
    Frame,
    Hold,
    InboxRow,
    OutboxRow,
    Session,
    SessionMoney,
    Settlement,
)
from voltledger.checker.journals import read_journals
from voltledger.checker.sinks import SinkLine

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFUNDED, OWING, RUNNING = (UUID(int=number) for number in (1, 2, 3))
PRICE, FEE = Decimal(2000), Decimal(10)


class Builder:
    """Tells visits to a journal and books them as a faultless server would."""

    def __init__(self, journal: Path) -> None:
        self.scribe = Scribe(journal)
        self.dump = Dump(at=NOW, stations={"CP-1": "default", "CP-2": "default"}, owners={"CP-1": "node-a"})

    def say(self, visit: Visit, session: UUID, action: str, payload: dict[str, Any], answer: dict[str, Any]) -> int:
        """A message that is sent, recorded and answered; its number in the journal."""
        fact = visit.queue(action)
        message_id = visit.send(fact, action, payload)
        visit.answered(fact, action, message_id, answer)
        self.record(visit.station, session, action, payload, answer)
        return fact

    def record(
        self,
        station: str,
        session: UUID | None,
        action: str,
        payload: dict[str, Any],
        answer: dict[str, Any],
        state: str = "applied",
    ) -> bytes:
        """What the server keeps of a message; its key."""
        key = b"key" + content_of(payload)
        self.dump.inbox.append(
            InboxRow(
                station_id=station,
                dedupe_key=key,
                action=action,
                state=state,
                received_at=NOW,
                response=json.dumps(answer),
                session_id=session,
            )
        )
        self.dump.frames.append(Frame(station_id=station, action=action, dedupe_key=key, content=content_of(payload)))
        return key

    def visit(self, session: UUID, station: str, connector: int, registers: list[int], *, ends: bool) -> Visit:
        """A whole visit: start, a reading for each register, and the end at the last one."""
        start, transaction = registers[0], session.int
        visit = self.scribe.visit(station, connector, start)
        begin = {"connectorId": connector, "idTag": "CARD-A", "meterStart": start, "timestamp": str(session)}
        self.say(visit, session, "StartTransaction", begin, {"transactionId": transaction, "idTagInfo": ACCEPTED})
        for register in registers[1:]:
            visit.register_wh = register
            self.say(visit, session, "MeterValues", meter_values(transaction, register), {})
        if ends:
            visit.end()
            stop = {"transactionId": transaction, "meterStop": registers[-1], "timestamp": str(session)}
            self.say(visit, session, "StopTransaction", stop, {})
        return visit

    def book(self, session: UUID, station: str, registers: list[int], *, paid: int, ended: bool, evse: int = 1) -> None:
        """The session, its settlement and what its entries moved."""
        energy = registers[-1] - registers[0]
        cost = energy * 2  # 2,000 minor units a kWh
        covered = min(cost, paid)
        self.dump.sessions.append(
            Session(
                id=session,
                station_id=station,
                evse_id=evse,
                connector_id=1,
                organization_id="default",
                status="COMPLETED" if ended else "ONGOING",
                origin="local",
                created_at=NOW - timedelta(hours=1),
                currency="INR",
                price_per_kwh_minor=PRICE,
                fee_percent=FEE,
                transaction_ref=str(session.int),
                token="CARD-A",
                driver_id="anna",
                started_at=NOW - timedelta(hours=1),
                ended_at=NOW - timedelta(minutes=5) if ended else None,
                meter_start_wh=registers[0],
                register_wh=registers[-1],
                energy_wh=energy,
                heard_at=NOW - timedelta(minutes=5),
                paid_minor=paid,
                refunded_minor=paid - covered if ended else 0,
                settle_version=int(ended),
                settled_at=NOW - timedelta(minutes=4) if ended else None,
                end_reported=ended,
            )
        )
        self.dump.holds.append(Hold(session_id=session, version=1, amount=paid))
        if not ended:
            self.dump.money.append(SessionMoney(session_id=session, wallet=-paid, held=paid))
            return
        fee = cost // 10
        self.dump.settlements.append(
            Settlement(
                session_id=session,
                version=1,
                energy_wh=energy,
                price_per_kwh_minor=PRICE,
                fee_percent=FEE,
                currency="INR",
                paid_minor=paid,
                cost_minor=cost,
                covered_minor=covered,
                refund_minor=paid - covered,
                owed_minor=cost - covered,
                fee_minor=fee,
                share_minor=cost - fee,
                entry_id=session.int,
            )
        )
        self.dump.money.append(
            SessionMoney(
                session_id=session,
                wallet=-covered,
                held=0,
                receivable=covered - cost,
                payable=cost - fee,
                platform_fee=fee,
            )
        )


ACCEPTED = {"status": "Accepted"}


def meter_values(transaction: int, register: int) -> dict[str, Any]:
    """MeterValues with one register."""
    sample = {"value": str(register), "unit": "Wh"}
    value = {"timestamp": f"2026-03-01T11:{register % 60:02}:00Z", "sampledValue": [sample]}
    return {"connectorId": 1, "transactionId": transaction, "meterValue": [value]}


def build(journal: Path) -> Builder:
    """The clean world, still open for more."""
    builder = Builder(journal)
    builder.visit(REFUNDED, "CP-1", 1, [1_000, 3_000, 6_000], ends=True)
    builder.book(REFUNDED, "CP-1", [1_000, 6_000], paid=50_000, ended=True)
    builder.visit(OWING, "CP-1", 2, [10, 30_010], ends=True)
    builder.book(OWING, "CP-1", [10, 30_010], paid=50_000, ended=True, evse=2)
    builder.visit(RUNNING, "CP-2", 1, [7_000, 8_500], ends=False)
    builder.book(RUNNING, "CP-2", [7_000, 8_500], paid=20_000, ended=False)
    dump = builder.dump
    dump.accounts = [
        Account(code="provider::INR", kind="provider", owner="", currency="INR", posted=-200_000),
        Account(
            code="wallet:anna:INR", kind="wallet", owner="anna", currency="INR", posted=120_000, balance_minor=120_000
        ),
        Account(code="held:anna:INR", kind="held", owner="anna", currency="INR", posted=20_000, balance_minor=20_000),
        Account(code="receivable:anna:INR", kind="receivable", owner="anna", currency="INR", posted=-10_000),
        Account(code="payable:default:INR", kind="payable", owner="default", currency="INR", posted=63_000),
        Account(code="platform_fee::INR", kind="platform_fee", owner="", currency="INR", posted=7_000),
    ]
    dump.connectors = [
        ConnectorRow(station_id="CP-1", evse_id=1, status="Available"),
        ConnectorRow(station_id="CP-2", evse_id=1, status="Charging"),
    ]
    dump.outbox = [OutboxRow(effect_key="mail:1", target="webhook", state="sent", created_at=NOW)]
    return builder


def world_of(builder: Builder) -> World:
    """All of it, side by side."""
    return World(
        dump=builder.dump,
        journals=read_journals([builder.scribe.path]),
        sinks=[
            SinkLine(sink="webhook", effect="mail:1", id="e1"),
            SinkLine(sink="webhook", effect="mail:1", id="e1"),
        ],
        redis={
            "status:CP-1": {"1": "Available", "at": "whenever"},
            "owner:CP-1": "node-a",
            "events:CP-2": [{"c": "1", "k": "metered", "t": "2026", "s": str(RUNNING)}],
        },
    )


def change(rows: list[Any], number: int = 0, **members: Any) -> None:
    """Replaces a frozen row by one that differs."""
    rows[number] = msgspec.structs.replace(rows[number], **members)
