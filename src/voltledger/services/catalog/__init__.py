"""What people manage and look at: stations, tokens, users, money, prices, keys, sessions, findings, books.

The command line, the HTTP API and the pages call the same functions: plain arguments in, Structs out,
no word of HTTP.

Rules:
- Each call is one unit of work.
- Amounts are whole minor units, energy whole Wh, times aware and UTC.
- Lists come in pages; a cursor is opaque, made from the last item's sort key.
- A secret (password, key) is returned once, by the call that made it, and only its hash is kept.

A module holds one subject, `views` what it returns; `Catalog` is all of them.
"""

from voltledger.services.catalog.amounts import money_sentence, session_of
from voltledger.services.catalog.catalog import Catalog
from voltledger.services.catalog.keys import ROLES, Role
from voltledger.services.catalog.pages import MAX_PAGE
from voltledger.services.catalog.passwords import WEAK_PASSWORD, new_password
from voltledger.services.catalog.people import MAX_AMOUNT_MINOR
from voltledger.services.catalog.stations import OCPP_VERSIONS, station_url
from voltledger.services.catalog.store import CatalogStore, CatalogWork
from voltledger.services.catalog.tariffs import Scope
from voltledger.services.catalog.texts import energy_text, money_text
from voltledger.services.catalog.views.base import Page, View
from voltledger.services.catalog.views.books import (
    AccountView,
    Counts,
    EntryView,
    FindingCount,
    FindingView,
    LoopRun,
    MoneyOf,
    Overview,
    PostingView,
)
from voltledger.services.catalog.views.feed import FeedPlace, FeedRow, StoredAnswer
from voltledger.services.catalog.views.people import (
    Actor,
    ApiKey,
    ApiKeyAdded,
    Organization,
    Tariff,
    Token,
    TopUp,
    User,
    Wallet,
    WalletLine,
)
from voltledger.services.catalog.views.sessions import (
    AskedOf,
    FactView,
    ReadingRow,
    Session,
    SessionRow,
    SessionStory,
    SettlementView,
)
from voltledger.services.catalog.views.stations import Connector, Frame, OpenSession, Station, StationAdded

__all__ = [
    "MAX_AMOUNT_MINOR",
    "MAX_PAGE",
    "OCPP_VERSIONS",
    "ROLES",
    "WEAK_PASSWORD",
    "AccountView",
    "Actor",
    "ApiKey",
    "ApiKeyAdded",
    "AskedOf",
    "Catalog",
    "CatalogStore",
    "CatalogWork",
    "Connector",
    "Counts",
    "EntryView",
    "FactView",
    "FeedPlace",
    "FeedRow",
    "FindingCount",
    "FindingView",
    "Frame",
    "LoopRun",
    "MoneyOf",
    "OpenSession",
    "Organization",
    "Overview",
    "Page",
    "PostingView",
    "ReadingRow",
    "Role",
    "Scope",
    "Session",
    "SessionRow",
    "SessionStory",
    "SettlementView",
    "Station",
    "StationAdded",
    "StoredAnswer",
    "Tariff",
    "Token",
    "TopUp",
    "User",
    "View",
    "Wallet",
    "WalletLine",
    "energy_text",
    "money_sentence",
    "money_text",
    "new_password",
    "session_of",
    "station_url",
]

# The API's schema names a list by the module of its items: that is this package, wherever a view is written.
for _view in View.__subclasses__():
    _view.__module__ = __name__
