"""T2: settling ended sessions, each version once, whoever tries and however often."""

from dataclasses import dataclass

from voltledger.domain.ledger.settlement import Settlement, settle
from voltledger.domain.session.session import ChargingSession
from voltledger.failpoints import ARMED, fp
from voltledger.logs import get_logger, log_failure
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import DueSettlement, SettlementStore, SettlementWork

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledSession:
    """A session that has just been settled."""

    session: ChargingSession
    settlement: Settlement


class Settling:
    """Does the settlements that are due."""

    def __init__(self, store: SettlementStore) -> None:
        self._store = store

    async def settle_due(self, limit: int = 100) -> tuple[int, list[SettledSession]]:
        """Does up to `limit` jobs; how many were handled, and what was settled among them.

        Raises: StoreUnavailable when the store is away. A job that fails for a reason of its own is
        put off and does not stop the others.
        """
        settled: list[SettledSession] = []
        for handled in range(limit):
            due: DueSettlement | None = None
            try:
                async with self._store.unit_of_work() as work:
                    due = await work.next_due()
                    if ARMED and due is not None:
                        await fp("t2.claimed")
                    outcome = None if due is None else await self._settle(work, due)
            except StoreContention as error:
                # Somebody has its row: the others must not wait behind it.
                if due is not None:
                    await self._store.put_off(due, str(error))
                continue
            except StoreUnavailable:
                raise
            except Exception as error:
                if due is None:
                    raise
                log_failure(log, "settlement failed", session=str(due.session_id), exc_info=error)
                await self._store.put_off(due, f"{type(error).__name__}: {error}"[:500])
                continue
            if due is None:
                return handled, settled
            if ARMED:
                await fp("t2.committed")
            if outcome is not None:
                settled.append(outcome)
        return limit, settled

    async def _settle(self, work: SettlementWork, due: DueSettlement) -> SettledSession | None:
        session, already = await work.load(due)
        if session is None or (already is not None and already.version >= due.version):
            await work.done(due)
            return None
        if session.is_open:
            await work.forget(due)
            return None
        if session.suspect:
            await work.hold(due, "its energy is not known well enough: set the meterStop of its ChargeSession")
            return None
        settlement = settle(session, already=already)
        if ARMED:
            await fp("t2.priced")
        await work.record(due, session, settlement)
        return SettledSession(session=session, settlement=settlement)
