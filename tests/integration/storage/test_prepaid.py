"""Prepaid starts: the money and the connector are somebody's before the station is asked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.integration.storage.conftest import Storage, end, new_id, start
from voltledger.domain.errors import InsufficientFunds, NotPossibleNow, SameKeyOtherInput
from voltledger.services.prepaid import PrepaidService
from voltledger.services.runtime import ConnectionInfo


class Everyone:
    """Every station is connected."""

    def connected(self) -> dict[str, ConnectionInfo]:
        """See `Presence`."""
        return {name: ConnectionInfo(version="ocpp1.6", since=datetime.now(UTC)) for name in ("CP-1", "CP-2")}


def prepaid(storage: Storage, *, pending_for: timedelta = timedelta(minutes=2)) -> PrepaidService:
    """A prepaid service of one node."""
    return PrepaidService(
        storage.sync_store,
        None,  # type: ignore[arg-type]
        Everyone(),
        now=lambda: datetime.now(UTC),
        new_id=new_id,
        new_token=lambda: "VL" + new_id().hex[-14:].upper(),
        pending_for=pending_for,
        wake=lambda: None,
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
