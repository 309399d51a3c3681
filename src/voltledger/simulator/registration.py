"""How a station gets itself accepted: the boot, again and again if need be, and the heartbeats after it."""

from voltledger.simulator.delivery import BOOT, Delivery
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Machine
from voltledger.simulator.statuses import Statuses
from voltledger.simulator.wire import Result


class Registration:
    """The BootNotifications and Heartbeats of one station."""

    def __init__(self, machine: Machine, delivery: Delivery, statuses: Statuses) -> None:
        self._machine = machine
        self._delivery = delivery
        self._statuses = statuses
        self._heartbeat_round = 0

    def say_boot(self) -> None:
        """Says who it is."""
        settings = self._machine.settings
        payload = {
            "chargePointVendor": settings.vendor,
            "chargePointModel": settings.model,
            "chargePointSerialNumber": settings.station[:25],
            "firmwareVersion": settings.firmware,
        }
        self._delivery.say(BOOT, payload, self._answered)

    def _answered(self, result: Result | None) -> None:
        machine = self._machine
        status = result.payload.get("status") if result else None
        interval = result.payload.get("interval") if result else None
        has_interval = isinstance(interval, int) and interval > 0
        machine.note(Kind.BOOT, reason=str(status), payload=dict(result.payload) if result else None)
        if status != "Accepted":
            wait_s = float(interval) if has_interval and interval else machine.settings.boot_retry_s
            machine.after(wait_s, self._boot_again)
            return
        if has_interval:
            machine.configuration.values["HeartbeatInterval"] = str(interval)
        self._accepted()

    def _accepted(self) -> None:
        was_booted, self._delivery.booted = self._delivery.booted, True
        if not was_booted:
            self._statuses.report_all()
            self._heartbeat_round += 1
            self._beat_later(self._heartbeat_round)

    def _boot_again(self) -> None:
        if not self._delivery.booted:
            self._delivery.boot_due = True

    def _beat_later(self, beat_round: int) -> None:
        wait_s = self._machine.configuration.number("HeartbeatInterval") or 300.0
        self._machine.after(wait_s, self._beat, beat_round)

    def _beat(self, beat_round: int) -> None:
        if beat_round == self._heartbeat_round and self._delivery.booted:
            self._delivery.say("Heartbeat", {})
            self._beat_later(beat_round)
