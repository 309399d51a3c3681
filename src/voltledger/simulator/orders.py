"""What a station does when the server asks for something; how it answers is in `commands`.

An order is only accepted here: what follows from it happens after the answer has been sent.
"""

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.parts import Parts


class Orders(Parts):
    """A station as the server sees it."""

    def remote_start(self, connector_number: int | None, token: str) -> bool:
        """Accepts when a connector is free; the session begins after the answer has been sent."""
        for connector in self.connectors:
            wanted = connector_number is None or connector.number == connector_number
            if wanted and connector.operative and connector.session is None and not self._sessions.winding_up:
                self._machine.after(0.0, self._sessions.remote_plug_in, connector, token)
                return True
        return False

    def remote_stop(self, transaction_id: int) -> bool:
        """Accepts for a transaction that runs here; a frozen station goes on whatever it answers."""
        for session in self.active_sessions:
            if session.transaction_id == transaction_id and not session.is_orphan:
                if session.plan.behaviour is Behaviour.FROZEN:
                    return not session.plan.rejects_remote_stop
                self._machine.after(0.0, self._sessions.end_if_charging, session, "Remote")
                return True
        return False

    def unlock(self, connector_number: int) -> str:
        """Ends the session, if any, and lets go of the plug."""
        if not 1 <= connector_number <= len(self.connectors):
            return "NotSupported"
        session = self.connectors[connector_number - 1].session
        if session is not None:
            self._machine.after(0.0, self._sessions.end_if_charging, session, "UnlockCommand")
        return "Unlocked"

    def change_availability(self, connector_number: int, operative: bool) -> str:
        """Takes effect at once, or after the session that is running."""
        if not 0 <= connector_number <= len(self.connectors):
            return "Rejected"
        busy = False
        for connector in self.connectors:
            if connector_number in (0, connector.number):
                connector.operative = operative
                if connector.session is not None:
                    busy = True
                else:
                    self._machine.after(0.0, self._statuses.show_rest, connector)
        return "Scheduled" if busy and not operative else "Accepted"

    def reset(self, is_hard: bool) -> None:
        """Restarts after the answer: at once, or after the sessions have been stopped and reported."""
        if is_hard:
            self._machine.after(0.05, self._faults.restart, "HardReset")
            return
        for session in self.active_sessions:
            self._machine.after(0.0, self._sessions.end_if_charging, session, "SoftReset")
        self._machine.after(0.05, self._faults.restart_when_quiet, self._machine.now + 5.0)

    def trigger(self, message: str, connector_number: int | None) -> str:
        """Sends what the server asks for, after the answer."""
        if connector_number is not None and not 0 <= connector_number <= len(self.connectors):
            return "Rejected"
        chosen = [c for c in self.connectors if connector_number in (None, 0, c.number)]
        match message:
            case "Heartbeat":
                self._machine.after(0.0, self._delivery.say, "Heartbeat", {})
            case "StatusNotification":
                for connector in chosen:
                    self._machine.after(0.0, self._statuses.report, connector)
            case "MeterValues":
                for connector in chosen:
                    self._machine.after(0.0, self._metering.sample_on_trigger, connector)
            case "BootNotification":
                self._machine.after(0.0, self._registration.say_boot)
            case _:
                return "NotImplemented"
        return "Accepted"
