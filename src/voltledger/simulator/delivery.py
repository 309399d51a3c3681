"""How a station gets its messages delivered: one call at a time, boot first, then whatever was said earliest.

Transaction messages are kept while offline and leave in the order in which they became true; they are given up
only after the last counted attempt. Everything else is lost with the connection.
Source: OCPP 1.6 ed. 2 §3.7, §3.7.1.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.effects import Cut, HangUp, Transmit
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Machine
from voltledger.simulator.queue import Fact, TransactionQueue
from voltledger.simulator.settings import MessageIds
from voltledger.simulator.visits import Session, without_lost_answer
from voltledger.simulator.wire import Call, Error, Frame, Payload, Result

Answer = Callable[[Result | None], None]
BOOT = "BootNotification"


@dataclass(slots=True, kw_only=True, eq=False)
class _InFlight:
    call: Call
    fact: Fact[Session] | None
    on_answer: Answer | None


@dataclass(slots=True, kw_only=True, eq=False)
class _Plain:
    """A call that is not a transaction message; lost with the connection."""

    order: int
    action: str
    payload: Payload
    on_answer: Answer | None


class Delivery:
    """The connection of a station, and what waits for it.

    `say_boot` must say a BootNotification; `refused` is told when a token was refused at a start.
    """

    def __init__(self, machine: Machine, *, say_boot: Callable[[], None], refused: Callable[[Session], None]) -> None:
        self.is_open = False
        self.booted = False
        self.boot_due = True
        self.queue: TransactionQueue[Session] = TransactionQueue()
        self._machine = machine
        self._say_boot = say_boot
        self._refused = refused
        self._ids = Random(f"{machine.name}/ids")
        self._message_number = 0
        self._fact_number = 0
        self._outbox: deque[_Plain] = deque()
        self._in_flight: _InFlight | None = None
        self._given_up: dict[str, str] = {}  # message id -> action, of calls nobody waits for any more

    @property
    def is_quiet(self) -> bool:
        """Every transaction message has been delivered or given up, and no answer is awaited."""
        return not self.queue and self._in_flight is None

    @property
    def is_silent(self) -> bool:
        """Quiet, and nothing else is waiting to be said."""
        return self.is_quiet and not self._outbox

    # --- What is to be said -----------------------------------------------------------------------------

    def say(self, action: str, payload: Payload, on_answer: Answer | None = None) -> None:
        """A call that is worth nothing later: dropped when there is no connection, or before boot."""
        if self.is_open and (self.booted or action == BOOT):
            order = self._machine.next_order()
            self._outbox.append(_Plain(order=order, action=action, payload=payload, on_answer=on_answer))

    def queue_fact(
        self,
        session: Session,
        action: str,
        payload: dict[str, Any],
        *,
        hang_up: bool = False,
        duplicate: bool = False,
    ) -> None:
        """A transaction message: kept until it is answered or given up."""
        fact = Fact(
            number=self.next_fact_number(),
            subject=session,
            action=action,
            payload=payload,
            order=self._machine.next_order(),
            hang_up=hang_up,
            duplicate=duplicate,
        )
        plan = session.plan
        if plan.behaviour is Behaviour.LOST_RESPONSE and plan.lost_answer_of == action:
            fact.ignore_answers = 1
            session.plan = without_lost_answer(plan)
        self.queue.append(fact)
        self._machine.note_fact(Kind.QUEUED, fact, payload=payload)

    def next_fact_number(self) -> int:
        """The number of the next transaction message, also of one that is never sent."""
        self._fact_number += 1
        return self._fact_number

    # --- One call at a time -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Sends the next call, if the station may speak: boot first, then whatever was said earliest."""
        if not self.is_open or not self._machine.powered or self._in_flight is not None:
            return
        if not self.booted:
            self._boot_if_due()
            return
        fact = self.queue.head
        if fact is not None and fact.not_before > self._machine.now:
            fact = None
        if self._outbox and (fact is None or self._outbox[0].order < fact.order):
            self._send_plain(self._outbox.popleft())
        elif fact is not None:
            self._send_fact(fact)

    def _boot_if_due(self) -> None:
        if self.boot_due:
            self.boot_due = False
            self._outbox.clear()
            self._say_boot()
            self._send_plain(self._outbox.popleft())

    def _send_plain(self, plain: _Plain) -> None:
        call = Call(message_id=self._new_message_id(), action=plain.action, payload=plain.payload)
        self._send(_InFlight(call=call, fact=None, on_answer=plain.on_answer))

    def _send_fact(self, fact: Fact[Session]) -> None:
        if fact.message_id is None or not self._machine.settings.retry_same_id:
            fact.message_id = self._new_message_id()
        payload = dict(fact.payload)
        if fact.action != "StartTransaction":
            payload["transactionId"] = self._transaction_id(fact)
        call = Call(message_id=fact.message_id, action=fact.action, payload=payload)
        self._send(_InFlight(call=call, fact=fact, on_answer=None))
        if fact.hang_up:
            self._hang_up_after(fact)

    def _hang_up_after(self, fact: Fact[Session]) -> None:
        self._machine.effects.append(HangUp())
        self.queue.remove_head(fact)
        self._machine.note_fact(Kind.FORGOTTEN, fact, reason=str(Behaviour.STOP_THEN_HANG_UP))
        self._in_flight = None
        self.lost()

    def _transaction_id(self, fact: Fact[Session]) -> int:
        foreign = fact.subject.plan.foreign_transaction_id
        if fact.subject.is_orphan and foreign is not None:
            return foreign
        known = fact.subject.transaction_id
        return known if known is not None else self._machine.settings.unknown_transaction_id

    def _send(self, in_flight: _InFlight) -> None:
        call, fact = in_flight.call, in_flight.fact
        self._in_flight = in_flight
        self._machine.counts.sent += 1
        sent: dict[str, Any] = {**_names(call), "payload": dict(call.payload)}
        if fact is None:
            self._machine.note(Kind.SENT, **sent)
        else:
            self._machine.note_fact(Kind.SENT, fact, attempt=fact.attempts + 1, **sent)
        self._machine.effects.append(Transmit(call))
        self._machine.after(self._machine.settings.call_timeout_s, self._time_out, in_flight)

    def _new_message_id(self) -> str:
        self._message_number += 1
        if self._machine.settings.message_ids is MessageIds.COUNTER:
            return str(self._message_number)
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    # --- What became of it ------------------------------------------------------------------------------

    def use_answer(self, frame: Result | Error) -> None:
        """An answer arrived; to a call that nobody waits for any more it is only noted."""
        in_flight = self._in_flight
        if in_flight is None or in_flight.call.message_id != frame.message_id:
            self._note_stray_answer(frame)
            return
        fact = in_flight.fact
        if fact is not None and fact.ignore_answers > 0:
            self._ignore_answer(fact, in_flight, frame)
            return
        self._in_flight = None
        self._count_answer(frame)
        if fact is None:
            self._use_plain_answer(in_flight, frame)
        else:
            self._use_fact_answer(fact, in_flight.call, frame)

    def _ignore_answer(self, fact: Fact[Session], in_flight: _InFlight, frame: Result | Error) -> None:
        fact.ignore_answers -= 1
        self._machine.note_fact(Kind.ANSWER_IGNORED, fact, **answer_fields(in_flight.call, frame))
        self._machine.after(self._machine.settings.lost_answer_wait_s, self._time_out, in_flight)

    def _use_plain_answer(self, in_flight: _InFlight, frame: Result | Error) -> None:
        self._machine.note(Kind.ANSWERED, **answer_fields(in_flight.call, frame))
        if in_flight.on_answer is not None:
            in_flight.on_answer(frame if isinstance(frame, Result) else None)

    def _use_fact_answer(self, fact: Fact[Session], call: Call, frame: Result | Error) -> None:
        self._machine.note_fact(Kind.ANSWERED, fact, **answer_fields(call, frame))
        if isinstance(frame, Error):
            self._failed(fact)
            return
        if fact.action == "StartTransaction" and not _learn_transaction(fact.subject, frame):
            self._failed(fact)
            return
        self.queue.remove_head(fact)
        if token_status(frame) not in (None, "Accepted") and fact.action == "StartTransaction":
            self._refused(fact.subject)

    def _time_out(self, in_flight: _InFlight) -> None:
        if self._in_flight is not in_flight:
            return
        self._in_flight = None
        self._machine.counts.timed_out += 1
        call = in_flight.call
        self._given_up[call.message_id] = call.action
        if in_flight.fact is not None:
            self._machine.note_fact(Kind.TIMED_OUT, in_flight.fact, **_names(call))
            self._failed(in_flight.fact)
            return
        self._machine.note(Kind.TIMED_OUT, **_names(call))
        if in_flight.on_answer is not None:
            in_flight.on_answer(None)

    def _failed(self, fact: Fact[Session]) -> None:
        machine = self._machine
        was_last = self.queue.failed(
            fact,
            now=machine.now,
            max_attempts=max(1, int(machine.configuration.number("TransactionMessageAttempts"))),
            retry_interval_s=machine.configuration.number("TransactionMessageRetryInterval"),
        )
        if was_last:
            machine.counts.discarded += 1
            machine.note_fact(Kind.DISCARDED, fact, attempt=fact.attempts, payload=dict(fact.payload))
        else:
            machine.after(fact.not_before - machine.now, self.pump)

    def _count_answer(self, frame: Result | Error) -> None:
        if isinstance(frame, Error):
            self._machine.counts.refused += 1
        else:
            self._machine.counts.answered += 1

    def _note_stray_answer(self, frame: Result | Error) -> None:
        action = self._given_up.pop(frame.message_id, None)
        payload = dict(frame.payload) if isinstance(frame, Result) else None
        self._machine.note(Kind.LATE_ANSWER, message_id=frame.message_id, action=action, payload=payload)

    # --- The connection and the power -------------------------------------------------------------------

    def cut(self, why: str) -> None:
        """Breaks the connection, if there is one."""
        if self.is_open:
            self._machine.effects.append(Cut(why))
            self.lost()

    def lost(self) -> None:
        """The connection is gone. A message in flight goes back to the queue and is not charged an attempt."""
        self.is_open = False
        waiting, self._in_flight = self._in_flight, None
        unanswered = [(plain.action, plain.on_answer) for plain in self._outbox]
        self._outbox.clear()
        if not self.booted:
            self.boot_due = True
        if waiting is not None:
            self._given_up[waiting.call.message_id] = waiting.call.action
            unanswered.append((waiting.call.action, waiting.on_answer))
        for action, on_answer in unanswered:
            if on_answer is not None and action != BOOT:
                on_answer(None)

    def forget_boot(self) -> None:
        """The station has to boot before it says anything else."""
        self.booted, self.boot_due = False, True

    def power_up(self) -> None:
        """A station that counts its messages begins again."""
        if self._machine.settings.message_ids is MessageIds.COUNTER:
            self._message_number = 0


def token_status(result: Result | None) -> str | None:
    """What an answer says of the token; None if it says nothing."""
    info = result.payload.get("idTagInfo") if result is not None else None
    status = info.get("status") if isinstance(info, dict) else None
    return status if isinstance(status, str) else None


def answer_fields(call: Call, frame: Frame) -> dict[str, Any]:
    """What the journal keeps of an answer."""
    if isinstance(frame, Error):
        return {**_names(call), "error": f"{frame.code} {frame.description}".rstrip()}
    return {**_names(call), "payload": dict(frame.payload)}


def _names(call: Call) -> dict[str, Any]:
    return {"message_id": call.message_id, "action": call.action}


def _learn_transaction(session: Session, frame: Result) -> bool:
    transaction_id = frame.payload.get("transactionId")
    if not isinstance(transaction_id, int):
        return False  # not an answer to a StartTransaction: as good as none
    session.start_answered = True
    if session.transaction_id is None:
        session.transaction_id = transaction_id
    return True
