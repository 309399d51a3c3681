"""What a station reports of its connectors."""

from voltledger.simulator.delivery import Delivery
from voltledger.simulator.machine import Machine
from voltledger.simulator.visits import Connector, Status


class Statuses:
    """The StatusNotifications of one station."""

    def __init__(self, machine: Machine, delivery: Delivery) -> None:
        self._machine = machine
        self._delivery = delivery

    def show(self, connector: Connector, status: Status) -> None:
        """Reports a status, if it is another one."""
        if connector.status is not status:
            connector.status = status
            self.report(connector)

    def show_rest(self, connector: Connector) -> None:
        """What a connector without a car shows."""
        self.show(connector, rest_status(connector.operative))

    def report(self, connector: Connector) -> None:
        """Says the status again."""
        self._report_status(connector.number, connector.status)

    def report_all(self) -> None:
        """Says the status of the station, then of every connector."""
        anything = any(connector.operative for connector in self._machine.connectors)
        self._report_status(0, rest_status(anything))
        for connector in self._machine.connectors:
            self.report(connector)

    def _report_status(self, connector_number: int, status: Status) -> None:
        payload = {
            "connectorId": connector_number,
            "errorCode": "NoError",
            "status": str(status),
            "timestamp": self._machine.wire_time(self._machine.now),
        }
        self._delivery.say("StatusNotification", payload)


def rest_status(operative: bool) -> Status:
    """The status of what no car uses."""
    return Status.AVAILABLE if operative else Status.UNAVAILABLE
