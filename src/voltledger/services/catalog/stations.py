"""Stations: registered, shown with what they said of their connectors, changed, and what they said on the wire."""

from collections.abc import Sequence
from decimal import Decimal
from urllib.parse import quote

import msgspec

from voltledger.config import Address
from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog.feed import announce
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.passwords import secret_for
from voltledger.services.catalog.store import CatalogWork, add, change, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.tariffs import insert_tariff
from voltledger.services.catalog.values import identity_of
from voltledger.services.catalog.views.base import Page, Value
from voltledger.services.catalog.views.stations import Connector, Frame, OpenSession, Station, StationAdded
from voltledger.services.masking import mask

OCPP_VERSIONS = ("ocpp1.6", "ocpp2.0.1", "ocpp2.1")


class Stations(Subject):
    """Stations and their conversations."""

    async def add_station(
        self,
        *,
        id: str,
        password: str | None = None,
        security_profile: int = 1,
        ocpp_versions: Sequence[str] = ("ocpp1.6",),
        connectors: int = 1,
        organization: str = "default",
        price_per_kwh_minor: Decimal | None = None,
        currency: str | None = None,
    ) -> StationAdded:
        """Registers a station, with a price of its own if one is given. Without a password one is made.

        Raises: InvalidInput, NotPossibleNow when the id is taken.
        """
        station_id = identity_of("id", id, most=48)
        versions = _versions(ocpp_versions)
        _check_range("security_profile", security_profile, most=3)
        _check_range("connectors", connectors, most=128)
        secret, hashed = await secret_for(password, wanted=security_profile in (1, 2))
        values = (station_id, organization, hashed, security_profile, versions, connectors)
        taken = f"station {station_id} exists already; change it instead of adding it"
        async with self._store.unit_of_work() as work:
            await add(work, "catalog_station_add", *values, taken=taken)
            if price_per_kwh_minor is not None:
                code = currency or self._default_currency
                await insert_tariff(work, "station", station_id, price_per_kwh_minor, code, None)
            await announce(work, "station", {"change": "added"}, station=station_id)
        return StationAdded(id=station_id, url=station_url(self._ocpp, station_id), password=secret)

    async def stations(
        self,
        *,
        status: str | None = None,
        organization: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Station]:
        """Stations by id, each with its connectors and open sessions."""
        part = Slice.of(cursor, limit, str)
        async with self._store.unit_of_work() as work:
            page = await read_page(work, "catalog_stations", Station, part, status, organization, key=lambda s: (s.id,))
            return msgspec.structs.replace(page, items=await _with_connectors(work, page.items))

    async def station(self, id: str) -> Station:
        """One station with its connectors and open sessions. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return (await _with_connectors(work, [await station_row(work, id)]))[0]

    async def disabled_among(self, ids: Sequence[str]) -> list[str]:
        """Which of these stations were disabled: their sockets are to be closed."""
        async with self._store.unit_of_work() as work:
            return [row.value for row in await work.many("catalog_stations_disabled", Value, list(ids))]

    async def change_station(
        self,
        id: str,
        *,
        organization: str | None = None,
        security_profile: int | None = None,
        ocpp_versions: Sequence[str] | None = None,
        connectors: int | None = None,
        disabled: bool | None = None,
    ) -> Station:
        """Changes what is given and leaves the rest. A disabled station may not connect. Raises: NotFound."""
        versions = None if ocpp_versions is None else _versions(ocpp_versions)
        await self._change_station(id, organization, None, security_profile, versions, connectors, disabled)
        return await self.station(id)

    async def set_station_password(self, id: str, *, password: str | None = None) -> StationAdded:
        """Gives a station another password, from its next connection on. Raises: NotFound."""
        secret, hashed = await secret_for(password, wanted=True)
        await self._change_station(id, None, hashed, None, None, None, None)
        return StationAdded(id=id, url=station_url(self._ocpp, id), password=secret)

    async def _change_station(self, id: str, *values: object) -> None:
        async with self._store.unit_of_work() as work:
            await change(work, "catalog_station_change", id, *values, what=f"station {id}")
            await announce(work, "station", {"change": "changed"}, station=id)

    async def frames(
        self,
        station: str,
        *,
        action: str | None = None,
        text: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Frame]:
        """The conversation with a station, newest first, secrets masked. Raises: NotFound."""
        part = Slice.of(cursor, limit, int)
        async with self._store.unit_of_work() as work:
            await station_row(work, station)
            page = await read_page(
                work, "catalog_frames", Frame, part, action, text, key=lambda f: (f.id,), within=(station,)
            )
        return msgspec.structs.replace(page, items=[_masked(frame) for frame in page.items])


async def station_row(work: CatalogWork, id: str) -> Station:
    """One station without its connectors. Raises: NotFound."""
    return found(await work.one("catalog_station", Station, id), f"station {id}")


def station_url(address: Address, station_id: str) -> str:
    """Where a station connects to; an address that means "all" is shown as this machine's name for itself."""
    everywhere = address.host in ("0.0.0.0", "::", "")
    shown = Address("localhost", address.port) if everywhere else address
    return f"ws://{shown}/{quote(station_id, safe='')}"


def _versions(given: Sequence[str]) -> list[str]:
    """Subprotocols in the order given; `1.6` means `ocpp1.6`."""
    versions = [v if v.startswith("ocpp") else f"ocpp{v}" for v in given]
    if not versions or any(v not in OCPP_VERSIONS for v in versions):
        raise InvalidInput("ocpp_versions", f"must name at least one of {', '.join(OCPP_VERSIONS)}, and nothing else")
    return list(dict.fromkeys(versions))


def _check_range(field: str, number: int, *, most: int) -> None:
    if not 0 <= number <= most:
        raise InvalidInput(field, f"must be a number from 0 to {most}")


async def _with_connectors(work: CatalogWork, stations: list[Station]) -> list[Station]:
    """The stations with what they said of their connectors, and our open sessions beside it."""
    ids = [s.id for s in stations]
    sessions: dict[str, list[OpenSession]] = {}
    for session in await work.many("catalog_sessions_open", OpenSession, ids):
        sessions.setdefault(session.station_id, []).append(session)
    connectors: dict[str, list[Connector]] = {}
    for connector in await work.many("catalog_connectors", Connector, ids):
        here = [s for s in sessions.get(connector.station_id, ()) if s.evse == connector.evse]
        beside = msgspec.structs.replace(connector, session=here[0] if here else None)
        connectors.setdefault(connector.station_id, []).append(beside)
    return [
        msgspec.structs.replace(s, connectors=connectors.get(s.id, []), sessions=sessions.get(s.id, []))
        for s in stations
    ]


def _masked(frame: Frame) -> Frame:
    """The frame without the passwords that a configuration message may carry."""
    payload = mask(frame.action, frame.payload)
    return frame if payload == frame.payload else msgspec.structs.replace(frame, payload=payload)
