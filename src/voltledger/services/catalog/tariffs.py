"""Prices: always a new row, so that sessions that began keep theirs."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog.organizations import organization_row
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, certain, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.values import currency_of
from voltledger.services.catalog.views.base import Page
from voltledger.services.catalog.views.people import Tariff
from voltledger.services.catalog.views.stations import Station

Scope = Literal["default", "organization", "station"]


class Tariffs(Subject):
    """Prices a kWh."""

    async def set_tariff(
        self,
        *,
        price_per_kwh_minor: Decimal,
        currency: str | None = None,
        scope: Scope = "default",
        scope_id: str = "",
        valid_from: datetime | None = None,
    ) -> Tariff:
        """A price from now, or from `valid_from`, on: always a new row; sessions that began keep theirs.

        Raises: InvalidInput, NotFound when the station or organisation does not exist.
        """
        async with self._store.unit_of_work() as work:
            await _check_scope(work, scope, scope_id)
            code = currency or self._default_currency
            return await insert_tariff(work, scope, scope_id, price_per_kwh_minor, code, valid_from)

    async def tariffs(
        self,
        *,
        scope: str | None = None,
        scope_id: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Tariff]:
        """Prices, newest first."""
        part = Slice.of(cursor, limit, int)
        async with self._store.unit_of_work() as work:
            return await read_page(work, "catalog_tariffs", Tariff, part, scope, scope_id, key=lambda t: (t.id,))

    async def tariff_of_station(self, station: str) -> Tariff | None:
        """The price that a session there would start with now; None where no tariff was ever set."""
        async with self._store.unit_of_work() as work:
            return await work.one("catalog_tariff_of_station", Tariff, station)


async def insert_tariff(
    work: CatalogWork, scope: Scope, scope_id: str, price: Decimal, currency: str, valid_from: datetime | None
) -> Tariff:
    """Writes a price, within a unit of work of the caller. Raises: InvalidInput."""
    if not price.is_finite() or not 0 <= price < 10**10:
        raise InvalidInput("price_per_kwh_minor", "must be a number from 0 to 9999999999")
    exponent = price.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -4:
        raise InvalidInput("price_per_kwh_minor", "must have at most 4 decimals")
    code = currency_of(currency)
    made = await work.one("catalog_tariff_add", Tariff, scope, scope_id, code, price, valid_from)
    return certain(made, "a tariff was neither written nor refused")


async def _check_scope(work: CatalogWork, scope: Scope, scope_id: str) -> None:
    if scope == "organization":
        await organization_row(work, scope_id)
    elif scope == "station":
        found(await work.one("catalog_station", Station, scope_id), f"station {scope_id}")
    elif scope_id:
        raise InvalidInput("scope_id", "must be empty for the default tariff")
