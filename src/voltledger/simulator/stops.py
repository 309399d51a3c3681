"""How a session ends: the truth about it, and the StopTransaction that tells it, late, or never."""

from dataclasses import dataclass
from typing import Any

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.delivery import Delivery
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Machine
from voltledger.simulator.metering import Metering
from voltledger.simulator.visits import Phase, Session


@dataclass(slots=True, kw_only=True, eq=False)
class OwedStop:
    """A StopTransaction that is true and not in the queue yet."""

    session: Session
    reason: str
    at: float
    register_wh: int


class Stops:
    """The ends of one station's sessions, and the StopTransactions it still owes."""

    def __init__(self, machine: Machine, delivery: Delivery, metering: Metering) -> None:
        self.owed: list[OwedStop] = []
        self._machine = machine
        self._delivery = delivery
        self._metering = metering

    def end_truth(self, session: Session, reason: str) -> OwedStop:
        """The car takes no more energy from now on; the message that this makes true."""
        self._metering.measure(session)
        session.phase = Phase.ENDED
        self._machine.counts.sessions_ended += 1
        register_wh = session.connector.register_wh
        energy_wh = register_wh - session.begin_register_wh
        self._machine.note(Kind.SESSION_END, session=session, energy_wh=energy_wh, reason=reason)
        return OwedStop(session=session, reason=reason, at=self._machine.now, register_wh=register_wh)

    def queue(self, owed: OwedStop) -> None:
        """The server shall hear of it."""
        hang_up = owed.session.plan.behaviour is Behaviour.STOP_THEN_HANG_UP
        self._delivery.queue_fact(owed.session, "StopTransaction", self._payload(owed), hang_up=hang_up)

    def queue_owed(self, owed: OwedStop) -> None:
        """The server hears of it now, if it has not already."""
        if owed in self.owed:
            self.owed.remove(owed)
            self.queue(owed)

    def queue_all_owed(self) -> None:
        """The server hears of all that it has not been told."""
        for owed in list(self.owed):
            self.queue_owed(owed)

    def forget(self, owed: OwedStop) -> None:
        """The server never hears of it."""
        self._note_never_sent(Kind.FORGOTTEN, owed, reason=str(Behaviour.LOST_STOP))

    def lose_all(self) -> None:
        """What the server has not been told is gone with the memory."""
        for owed in self.owed:
            self._note_never_sent(Kind.LOST, owed, reason="power loss")
        self.owed.clear()

    def _note_never_sent(self, kind: Kind, owed: OwedStop, *, reason: str) -> None:
        self._machine.note(
            kind,
            session=owed.session,
            fact=self._delivery.next_fact_number(),
            action="StopTransaction",
            payload=self._payload(owed),
            reason=reason,
        )

    def _payload(self, owed: OwedStop) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "meterStop": owed.register_wh,
            "timestamp": self._machine.wire_time(owed.at),
            "reason": owed.reason,
        }
        if owed.reason in ("Local", "DeAuthorized"):
            payload["idTag"] = owed.session.token
        return payload
