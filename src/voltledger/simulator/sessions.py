"""The visits of cars: they come, are authorized, charge, end and leave."""

from collections.abc import Callable
from random import Random

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.delivery import Delivery, token_status
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Machine
from voltledger.simulator.metering import Metering
from voltledger.simulator.power import Charge, draw_car
from voltledger.simulator.statuses import Statuses
from voltledger.simulator.stops import OwedStop, Stops
from voltledger.simulator.visits import Connector, Phase, Session, Status, draw_plan
from voltledger.simulator.wire import Result


class Sessions:
    """The visits at one station. `misbehave` is called once in each, at the moment drawn for it."""

    def __init__(
        self,
        machine: Machine,
        delivery: Delivery,
        statuses: Statuses,
        metering: Metering,
        stops: Stops,
        *,
        misbehave: Callable[[Session], None],
    ) -> None:
        self.winding_up = False
        self._machine = machine
        self._delivery = delivery
        self._statuses = statuses
        self._metering = metering
        self._stops = stops
        self._misbehave = misbehave
        self._number = 0
        self._own = 0

    @property
    def is_enough(self) -> bool:
        """No more cars will come."""
        settings = self._machine.settings
        return self.winding_up or (
            settings.autonomous and settings.sessions is not None and self._own >= settings.sessions
        )

    # --- A car comes ------------------------------------------------------------------------------------

    def plan_next(self, connector: Connector) -> None:
        """When the next car comes to a connector."""
        if self._machine.settings.autonomous:
            first = self._number == 0
            low, high = self._machine.settings.idle_s
            idle_s = self._machine.rng.uniform(0.0 if first else low, high)
            self._machine.after(self._machine.real(idle_s), self._arrive, connector)

    def _arrive(self, connector: Connector) -> None:
        limit = self._machine.settings.sessions
        if self.winding_up or (limit is not None and self._own >= limit):
            return
        if connector.session is not None or not connector.operative:
            self.plan_next(connector)
            return
        self._own += 1
        self.plug_in(connector, token=None, is_remote=False)

    def remote_plug_in(self, connector: Connector, token: str) -> None:
        """The car whose start the server asked for, if the connector is still free."""
        if connector.session is None and not self.winding_up:
            self.plug_in(connector, token=token, is_remote=True)

    def plug_in(self, connector: Connector, *, token: str | None, is_remote: bool) -> None:
        """A visit begins; without a token one is drawn that is not in use."""
        session = self._new_session(connector, token)
        connector.session = session
        self._statuses.show(connector, Status.PREPARING)
        asks = self._machine.settings.authorize and not session.is_orphan
        if is_remote:
            asks = self._machine.configuration.is_on("AuthorizeRemoteTxRequests")
        prepare_s = self._machine.real(session.plan.prepare_s)
        self._machine.after(prepare_s, self._authorize if asks else self._begin, session)

    def _new_session(self, connector: Connector, token: str | None) -> Session:
        self._number += 1
        rng = Random(f"{self._machine.name}/session/{self._number}")
        plan = draw_plan(rng, self._machine.settings)
        drawn_token = rng.choice(self._free_tokens())
        return Session(
            number=self._number,
            connector=connector,
            token=token if token is not None else drawn_token,
            plan=plan,
            charge=Charge(draw_car(rng, connector.outlet_power_w), connector.outlet_power_w),
        )

    def _free_tokens(self) -> list[str]:
        busy = {connector.session.token for connector in self._machine.connectors if connector.session is not None}
        tokens = self._machine.settings.tokens
        return [token for token in tokens if token not in busy] or list(tokens)

    # --- It charges -------------------------------------------------------------------------------------

    def _authorize(self, session: Session) -> None:
        if not (self._delivery.is_open and self._delivery.booted):
            self._begin(session)  # LocalAuthorizeOffline
            return

        def answered(result: Result | None) -> None:
            status = token_status(result)
            if status in (None, "Accepted"):  # no answer is the same as being offline
                self._begin(session)
                return
            self._machine.note(Kind.REFUSED, session=session, reason=status)
            self.unplug(session)

        self._delivery.say("Authorize", {"idTag": session.token}, answered)

    def _begin(self, session: Session) -> None:
        if session.phase is not Phase.PLUGGED or session.connector.session is not session:
            return
        self._begin_truth(session)
        if not session.is_orphan:
            self._queue_start(session)
        self._statuses.show(session.connector, Status.CHARGING)
        self._metering.sample_later(session)
        duration = self._machine.real(session.plan.duration_s)
        self._machine.after(duration, self.end_if_charging, session, session.plan.stop_reason)
        self._machine.after(duration * session.plan.fault_at, self._misbehave, session)

    def _begin_truth(self, session: Session) -> None:
        session.phase = Phase.CHARGING
        session.begin_register_wh = session.connector.register_wh
        session.metered_at = self._machine.now
        self._machine.counts.sessions_begun += 1
        behaviour = str(session.plan.behaviour)
        self._machine.note(Kind.SESSION_BEGIN, session=session, token=session.token, behaviour=behaviour)

    def _queue_start(self, session: Session) -> None:
        start = {
            "connectorId": session.connector.number,
            "idTag": session.token,
            "meterStart": session.connector.register_wh,
            "timestamp": self._machine.wire_time(self._machine.now),
        }
        self._delivery.queue_fact(session, "StartTransaction", start)
        if session.plan.behaviour is Behaviour.DUPLICATE_START:
            self._delivery.queue_fact(session, "StartTransaction", start, duplicate=True)

    # --- It ends ----------------------------------------------------------------------------------------

    def end_if_charging(self, session: Session, reason: str) -> None:
        """Ends a session, unless it has ended already."""
        if session.phase is Phase.CHARGING:
            self._end(session, reason)

    def end_refused(self, session: Session) -> None:
        """The server refused the token of a session that runs."""
        if self._machine.configuration.is_on("StopTransactionOnInvalidId"):
            self.end_if_charging(session, "DeAuthorized")

    def _end(self, session: Session, reason: str) -> None:
        """The car stops taking energy; what the server hears of it depends on the behaviour drawn."""
        owed = self._stops.end_truth(session, reason)
        match session.plan.behaviour:
            case Behaviour.LOST_STOP:
                self._stops.forget(owed)
                self.unplug(session)
                return
            case Behaviour.AVAILABLE_WITHOUT_STOP if not self.winding_up:
                self._stop_late(owed)
                return
            case Behaviour.ORPHAN:
                pass
            case _:
                self._stops.queue(owed)
        self._statuses.show(session.connector, Status.FINISHING)
        self._machine.after(self._machine.real(session.plan.finish_s), self.unplug, session)

    def _stop_late(self, owed: OwedStop) -> None:
        self._stops.owed.append(owed)
        self._statuses.show(owed.session.connector, Status.AVAILABLE)
        late_s = self._machine.real(self._machine.settings.late_stop_s)
        self._machine.after(late_s, self._stops.queue_owed, owed)
        self._machine.after(late_s, self.unplug, owed.session)

    def unplug(self, session: Session) -> None:
        """The car leaves, and another one may come."""
        connector = session.connector
        if connector.session is not session:
            return
        session.phase = Phase.ENDED
        connector.session = None
        self._statuses.show_rest(connector)
        self.plan_next(connector)

    def wind_up(self) -> None:
        """No new sessions; the running ones end now, with a StopTransaction."""
        self.winding_up = True
        for connector in self._machine.connectors:
            if connector.session is not None:
                session = connector.session
                self.end_if_charging(session, "Local")
                self.unplug(session)
        self._stops.queue_all_owed()
