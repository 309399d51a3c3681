"""Organisations: the owners of stations, and the fee that they leave us."""

from decimal import Decimal

from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, add, change, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.values import identity_or_slug, text_of
from voltledger.services.catalog.views.base import Page
from voltledger.services.catalog.views.people import Organization


class Organizations(Subject):
    """Owners of stations."""

    async def add_organization(
        self, *, name: str, id: str | None = None, fee_percent: Decimal | None = None
    ) -> Organization:
        """Registers an owner of stations. Raises: InvalidInput, NotPossibleNow when the id is taken."""
        shown = text_of("name", name, most=200)
        organization_id = identity_or_slug(id, shown)
        if not organization_id or ":" in organization_id:
            raise InvalidInput("id", "must be 1 to 64 characters without a colon")
        taken = f"organisation {organization_id} exists already; give another id"
        async with self._store.unit_of_work() as work:
            await add(work, "catalog_organization_add", organization_id, shown, fee_percent, taken=taken)
            return await organization_row(work, organization_id)

    async def organizations(self, *, cursor: str | None = None, limit: int = 50) -> Page[Organization]:
        """Organisations by id."""
        part = Slice.of(cursor, limit, str)
        async with self._store.unit_of_work() as work:
            return await read_page(work, "catalog_organizations", Organization, part, key=lambda o: (o.id,))

    async def organization(self, id: str) -> Organization:
        """One organisation. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await organization_row(work, id)

    async def change_organization(
        self,
        id: str,
        *,
        name: str | None = None,
        fee_percent: Decimal | None = None,
        fee_as_set: bool = False,
    ) -> Organization:
        """Changes name and fee from now on; `fee_as_set` goes back to the setting. Raises: NotFound."""
        shown = None if name is None else text_of("name", name, most=200)
        values = (id, shown, fee_percent, fee_as_set)
        async with self._store.unit_of_work() as work:
            await change(work, "catalog_organization_change", *values, what=f"organisation {id}")
            return await organization_row(work, id)


async def organization_row(work: CatalogWork, id: str) -> Organization:
    """One organisation. Raises: NotFound."""
    return found(await work.one("catalog_organization", Organization, id), f"organisation {id}")
