"""Prepaid starts: the money and the connector are somebody's before the station is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.integration.storage.conftest import Storage, clock, end, meter, new_id, start, status
from voltledger.domain.errors import InsufficientFunds, NotPossibleNow, SameKeyOtherInput
from voltledger.domain.events import ConnectorStatus
from voltledger.domain.identifiers import StationId, UserId
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor
from voltledger.services.prepaid import PrepaidService
from voltledger.services.runtime import ConnectionInfo
from voltledger.storage.postgres.ledger import post_entries


class Everyone:
    """Every station is connected."""

    def connected(self) -> dict[str, ConnectionInfo]:
        """See `Presence`."""
        return {name: ConnectionInfo(version="ocpp1.6", since=datetime.now(UTC)) for name in ("CP-1", "CP-2")}

    async def close_station(self, station_id: StationId, reason: str) -> None:
        """See `Presence`."""


def prepaid(
    storage: Storage, *, pending_for: timedelta = timedelta(minutes=2), now: Callable[[], datetime] = clock
) -> PrepaidService:
    """A prepaid service of one node."""
    return PrepaidService(
        storage.sync_store,
        None,  # type: ignore[arg-type]
        Everyone(),
        now=now,
        new_id=new_id,
        new_token=lambda: "VL" + new_id().hex[-14:].upper(),
        pending_for=pending_for,
        wake=lambda: None,
        quiet_since=lambda: storage.quiet_since,
        may_judge=lambda station_id: station_id not in storage.not_to_judge,
    )


async def ask(
    service: PrepaidService,
    user: str = "anna",
    amount: int = 50_000,
    *,
    station: str = "CP-1",
    connector: int = 1,
    **more: Any,
) -> UUID:
    """Asks for a session."""
    return await service.start(
        station_id=station, connector=connector, user_id=user, amount_minor=amount, token=None, key=more.get("key")
    )


def kinds(results: list[Any]) -> list[str]:
    """What became of calls, in words."""
    return sorted(type(r).__name__ for r in results)


async def test_a_prepaid_start_holds_the_money_and_queues_one_command(storage: Storage) -> None:
    session_id = await ask(prepaid(storage))
    balances = await storage.balances()
    assert (balances["held:anna:INR"], balances["wallet:anna:INR"]) == (50_000, 50_000)
    row = await storage.sql.fetchrow("SELECT action, state, session_id FROM command")
    assert tuple(row) == ("StartCharging", "queued", session_id)


async def test_parallel_starts_cannot_spend_the_same_money(storage: Storage, other_node: Storage) -> None:
    services = [prepaid(storage), prepaid(other_node)]
    places = [("CP-1", 1), ("CP-1", 2), ("CP-2", 1), ("CP-2", 2)]
    results = await asyncio.gather(
        *(
            ask(services[n % 2], amount=60_000, station=station, connector=connector)
            for n, (station, connector) in enumerate(places)
        ),
        return_exceptions=True,
    )
    assert kinds(results).count("UUID") == 1
    assert set(kinds(results)) <= {"UUID", "InsufficientFunds", "StoreContention"}
    balances = await storage.balances()
    assert (balances["held:anna:INR"], balances["wallet:anna:INR"]) == (60_000, 40_000)
    assert await storage.sql.fetchval("SELECT count(*) FROM charging_session") == 1
    assert await storage.sql.fetchval("SELECT count(*) FROM command") == 1


async def test_parallel_starts_of_two_users_do_not_share_a_connector(storage: Storage, other_node: Storage) -> None:
    services = [prepaid(storage), prepaid(other_node)]
    for turn in range(8):
        results = await asyncio.gather(
            *(ask(service, user, 1_000) for service, user in zip(services, ("anna", "ben"), strict=True)),
            return_exceptions=True,
        )
        assert kinds(results).count("UUID") == 1, f"turn {turn}: {kinds(results)}"
        assert set(kinds(results)) <= {"UUID", "NotPossibleNow", "StoreContention"}
        await storage.sql.execute("UPDATE charging_session SET status = 'TERMINATED'")


async def test_the_same_key_at_once_makes_one_session(storage: Storage, other_node: Storage) -> None:
    services = [prepaid(storage), prepaid(other_node)]
    results = await asyncio.gather(*(ask(services[n % 2], key="k") for n in range(6)), return_exceptions=True)
    assert len({r for r in results if isinstance(r, UUID)}) == 1
    assert await storage.sql.fetchval("SELECT count(*) FROM charging_session") == 1
    assert (await storage.balances())["held:anna:INR"] == 50_000
    assert await ask(services[0], key="k") in results


@pytest.mark.parametrize(("amount", "connector"), [(50_001, 1), (49_999, 1), (50_000, 2)])
async def test_the_same_key_with_other_input_is_refused(storage: Storage, amount: int, connector: int) -> None:
    service = prepaid(storage)
    await ask(service, key="k")
    with pytest.raises(SameKeyOtherInput):
        await ask(service, amount=amount, connector=connector, key="k")


async def test_a_start_is_refused_without_money_or_a_free_connector(storage: Storage) -> None:
    service = prepaid(storage)
    with pytest.raises(InsufficientFunds):
        await ask(service, amount=100_001)
    await ask(service, amount=100_000)
    with pytest.raises(NotPossibleNow):
        await ask(service, "ben")
    assert (await storage.balances())["held:anna:INR"] == 100_000


async def test_a_start_that_never_happens_gives_the_money_back_once_and_may_still_come_late(storage: Storage) -> None:
    service = prepaid(storage, pending_for=timedelta(seconds=-1))
    session_id = await ask(service)
    assert [await service.expire_pending() for _ in range(3)] == [1, 0, 0]
    await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 100_000
    token = await storage.sql.fetchval("SELECT token FROM charging_session")
    ref = (await storage.tell(start(minutes=-1, token=token)))["transactionId"]
    row = await storage.session(ref)
    assert (row["id"], row["status"]) == (session_id, "ONGOING")
    assert (await storage.balances())["held:anna:INR"] == 50_000
    await storage.tell(end(13_345, ref=ref, minutes=0))
    await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 75_310


async def test_a_start_that_comes_while_its_deadline_passes_ends_in_one_of_two_ways(
    storage: Storage, other_node: Storage
) -> None:
    service = prepaid(other_node, pending_for=timedelta(seconds=-1))
    for number in range(8):
        session_id = await ask(service, amount=5_000)
        token = await storage.sql.fetchval("SELECT token FROM charging_session WHERE id = $1", session_id)
        answer, _, _ = await asyncio.gather(
            storage.tell(start(minutes=-1, token=token, register=1_000)),
            service.expire_pending(),
            other_node.settling.settle_due(),
        )
        row = await storage.session(answer["transactionId"])
        assert (row["id"], row["status"]) == (session_id, "ONGOING"), f"turn {number}"
        await storage.tell(end(1_250, ref=answer["transactionId"], minutes=0))
        await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 100_000 - 8 * 500


async def test_a_start_whose_time_is_over_is_not_sent_any_more(storage: Storage) -> None:
    service = prepaid(storage, pending_for=timedelta(seconds=-1))
    await ask(service)
    assert await service.expire_pending() == 1
    await storage.live.claim("CP-1", "node#1", datetime.now(UTC))  # type: ignore[arg-type]
    assert await storage.live.claim_commands(["CP-1"], "node#1") == [], "another car may be at the plug by now"
    assert await storage.sql.fetchval("SELECT state FROM command") == "expired"


async def test_a_start_that_was_cancelled_is_not_sent_any_more(storage: Storage) -> None:
    service = prepaid(storage)
    await service.stop(await ask(service))
    assert await storage.sql.fetchval("SELECT state FROM command") == "expired"


async def test_the_keys_of_two_users_never_mean_the_same_start(storage: Storage) -> None:
    await storage.sql.execute("INSERT INTO driver (id, name, currency) VALUES ('anna:b', 'Other', 'INR')")
    entry = topup_entry(key="other", user=UserId("anna:b"), currency="INR", amount=Minor(100_000))
    assert entry is not None
    async with storage.database.unit_of_work() as connection:
        await post_entries(connection, [entry])
    service = prepaid(storage)
    first = await ask(service, "anna:b", key="c")
    second = await ask(service, "anna", connector=2, key="b:c")
    assert first != second
    with pytest.raises(NotPossibleNow):
        await ask(service, "anna", key="b:c2")


async def test_a_session_of_another_user_is_never_the_answer_to_a_key(storage: Storage) -> None:
    service = prepaid(storage)
    session_id = await ask(service, key="k")
    await storage.sql.execute("UPDATE charging_session SET driver_id = 'ben'")
    with pytest.raises(SameKeyOtherInput):
        await ask(service, key="k")
    assert await storage.sql.fetchval("SELECT id FROM charging_session") == session_id


async def test_a_start_does_not_expire_because_we_were_away(storage: Storage) -> None:
    later = prepaid(storage, now=lambda: clock(3))
    await ask(prepaid(storage))
    storage.quiet_since = clock(1.5)
    assert await later.expire_pending() == 0, "back for a minute and a half, and a start has two"
    storage.quiet_since = clock(0.5)
    storage.not_to_judge = {"CP-1"}
    assert await later.expire_pending() == 0, "its start may wait in a journal"
    storage.not_to_judge = set()
    assert await later.expire_pending() == 1


async def test_who_is_refused_reads_what_has_the_connector_and_when_that_is_looked_at(storage: Storage) -> None:
    service = prepaid(storage)
    await storage.live.claim(StationId("CP-1"), "a", clock(-50))
    ref = await storage.begin()
    with pytest.raises(NotPossibleNow, match=r"in use: a session has been running on it since \d\d:\d\d:\d\d UTC"):
        await ask(service, "ben")
    await storage.tell(meter(7_000, ref=ref, minutes=-20))
    await storage.tell(status(ConnectorStatus.AVAILABLE))
    with pytest.raises(NotPossibleNow, match=r"said Available since .* looked at every 2 minutes"):
        await ask(service, "ben")
    await ask(service, "ben", connector=2)
    with pytest.raises(NotPossibleNow, match=r"connector 2 of CP-1 is in use: .* a paid start waits .*, until"):
        await ask(service, connector=2)
