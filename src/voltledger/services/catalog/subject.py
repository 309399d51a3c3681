"""What the subjects of the catalogue have in common: where it is kept, and what it takes for granted."""

from voltledger.config import Address
from voltledger.services.catalog.store import CatalogStore


class Subject:
    """One subject; `Catalog` is all of them at once, so that they share one store and one constructor."""

    def __init__(self, store: CatalogStore, *, ocpp: Address, currency: str = "INR") -> None:
        self._store = store
        self._ocpp = ocpp
        self._default_currency = currency
