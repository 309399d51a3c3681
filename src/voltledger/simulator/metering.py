"""The meters: registers that only grow, and what is said of them."""

from typing import Any

from voltledger.simulator.delivery import Delivery
from voltledger.simulator.machine import Machine
from voltledger.simulator.statuses import Statuses
from voltledger.simulator.visits import Connector, Phase, Session, Status
from voltledger.simulator.wire import sampled_values


class Metering:
    """The meters of one station and its MeterValues."""

    def __init__(self, machine: Machine, delivery: Delivery, statuses: Statuses) -> None:
        self._machine = machine
        self._delivery = delivery
        self._statuses = statuses

    def measure(self, session: Session) -> None:
        """Brings the register up to now."""
        passed_s = (self._machine.now - session.metered_at) * self._machine.settings.time_scale
        session.connector.add_energy(session.charge.pass_time(passed_s))
        session.metered_at = self._machine.now

    def sample_later(self, session: Session) -> None:
        """The next sample of a session, an interval from now."""
        simulated_s = self._machine.configuration.number("MeterValueSampleInterval") or 60.0
        self._machine.after(self._machine.real(simulated_s), self._sample, session)

    def _sample(self, session: Session) -> None:
        if session.phase is not Phase.CHARGING:
            return
        self.measure(session)
        if not session.is_orphan or session.plan.foreign_transaction_id is not None:
            self._queue(session)
        if session.charge.is_full and session.connector.status is Status.CHARGING:
            self._statuses.show(session.connector, Status.SUSPENDED_EV)
        self.sample_later(session)

    def sample_on_trigger(self, connector: Connector) -> None:
        """A sample because the server asked for one; without a transaction it is said of the connector."""
        session = connector.session
        if session is not None and session.phase is Phase.CHARGING and not session.is_orphan:
            self.measure(session)
            self._queue(session)
            return
        self._delivery.say("MeterValues", self._payload(connector, context="Trigger"))

    def _queue(self, session: Session) -> None:
        payload = self._payload(session.connector, context="Sample.Periodic")
        self._delivery.queue_fact(session, "MeterValues", payload)

    def _payload(self, connector: Connector, *, context: str) -> dict[str, Any]:
        return {"connectorId": connector.number, "meterValue": [self._meter_value(connector, context)]}

    def _meter_value(self, connector: Connector, context: str) -> dict[str, Any]:
        session = connector.session
        charging = session is not None and session.phase is Phase.CHARGING
        charge = session.charge if session is not None and charging else None
        return {
            "timestamp": self._machine.wire_time(self._machine.now),
            "sampledValue": sampled_values(
                register_wh=connector.register_wh,
                power_w=charge.power_w if charge else 0.0,
                current_a=charge.current_a if charge else 0.0,
                soc_percent=charge.soc * 100 if charge else None,
                context=context,
            ),
        }
