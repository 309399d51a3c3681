"""What people manage and look at: stations, tokens, users, money, prices, keys, sessions, findings, books.

The command line, the HTTP API and the pages call the same functions: plain arguments in, Structs out,
no word of HTTP.

Rules:
- Each call is one unit of work.
- Amounts are whole minor units, energy whole Wh, times aware and UTC.
- Lists come in pages; a cursor is opaque, made from the last item's sort key.
- A secret (password, key) is returned once, by the call that made it, and only its hash is kept.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import secrets
import string
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec

from voltledger.config import Address
from voltledger.domain.billing.charges import charge_session
from voltledger.domain.errors import (
    InvalidInput,
    InvariantBroken,
    NotFound,
    NotPossibleNow,
    SameKeyOtherInput,
)
from voltledger.domain.events import AuthorizationStatus
from voltledger.domain.identifiers import UserId, normal_token
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.states import ENDED, State
from voltledger.services.credentials import hash_password

Role = Literal["viewer", "operator", "finance", "admin", "driver"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "finance", "admin", "driver")
Scope = Literal["default", "organization", "station"]
OCPP_VERSIONS = ("ocpp1.6", "ocpp2.0.1", "ocpp2.1")
MAX_AMOUNT_MINOR = 10**12
"""The largest top-up: well above any real one, well below what the books can count."""
MAX_PAGE = 500

T = TypeVar("T", bound=msgspec.Struct)
Item = TypeVar("Item")


# --- The store -----------------------------------------------------------------------------------------


class CatalogWork(Protocol):
    """One unit of work of named queries; each row comes as the Struct that is asked for."""

    async def many(self, query: str, kind: type[T], *arguments: object) -> list[T]:
        """All rows of a query."""

    async def one(self, query: str, kind: type[T], *arguments: object) -> T | None:
        """The first row of a query, or None."""

    async def run(self, query: str, *arguments: object) -> None:
        """A statement without rows."""

    async def post(self, entry: Entry) -> bool:
        """Posts an entry; false when its key exists, and then nothing was written."""


class CatalogStore(Protocol):
    """Where the catalogue is kept."""

    def unit_of_work(self) -> AbstractAsyncContextManager[CatalogWork]:
        """Begins one. Raises StoreUnavailable, StoreContention; InvalidInput where a rule names a field."""


# --- What comes out ------------------------------------------------------------------------------------


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is shown; its fields are the contract's names."""


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """Part of a list; `next_cursor` is None on the last page."""

    items: list[Item]
    next_cursor: str | None = None


class OpenSession(View, frozen=True, kw_only=True):
    """A session that is not over, beside the connector it is on."""

    id: UUID
    station_id: str
    evse: int
    status: str
    user: str | None
    started_at: datetime | None
    created_at: datetime
    energy_wh: int
    power_w: float | None
    heard_at: datetime | None


class Connector(View, frozen=True, kw_only=True):
    """What a station last said of a connector, and our open session there. Connector 0 is the station."""

    station_id: str
    evse: int
    connector: int
    status: str
    raw_status: str
    error_code: str
    info: str
    occurred_at: datetime | None
    received_at: datetime
    since: datetime
    session: OpenSession | None = None


class Station(View, frozen=True, kw_only=True):
    """A station as recorded. `status` is the charge point status of the user's document."""

    id: str
    organization: str
    status: str
    security_profile: int
    ocpp_versions: list[str]
    connector_count: int
    vendor: str
    model: str
    serial: str
    firmware: str
    booted_at: datetime | None
    last_seen_at: datetime | None
    out_of_order_since: datetime | None
    disabled_at: datetime | None
    created_at: datetime
    connectors: list[Connector] = []
    sessions: list[OpenSession] = []


class StationAdded(View, frozen=True, kw_only=True):
    """A new station, or one with a new password, which is shown this once."""

    id: str
    url: str
    password: str | None


class Token(View, frozen=True, kw_only=True):
    """An id token; `value` in the spelling it was given."""

    value: str
    type: str
    status: str
    group: str | None
    user: str | None
    expires_at: datetime | None
    created_at: datetime


class _TokenRow(Token, frozen=True, kw_only=True):
    sort_key: str


class User(View, frozen=True, kw_only=True):
    """Somebody whose money we hold."""

    id: str
    name: str
    currency: str
    balance_minor: int
    held_minor: int
    created_at: datetime


class Organization(View, frozen=True, kw_only=True):
    """An owner of stations; `fee_percent` None means the setting."""

    id: str
    name: str
    fee_percent: Decimal | None
    created_at: datetime


class Wallet(View, frozen=True, kw_only=True):
    """What a user can spend, and what is set aside."""

    user: str
    balance_minor: int
    held_minor: int
    currency: str


class WalletLine(View, frozen=True, kw_only=True):
    """One movement of a wallet; negative takes from it."""

    id: int
    line: int
    kind: str
    amount_minor: int
    balance_minor: int
    currency: str
    session: UUID | None
    reason: str
    recorded_at: datetime


class TopUp(View, frozen=True, kw_only=True):
    """Money that came in; `balance_minor` is the wallet right after it."""

    id: int
    user: str
    amount_minor: int
    balance_minor: int
    currency: str
    key: str
    recorded_at: datetime


class Tariff(View, frozen=True, kw_only=True):
    """A price a kWh in minor units, fractions allowed; `current` if it counts now in its scope."""

    id: int
    scope: str
    scope_id: str
    currency: str
    price_per_kwh_minor: Decimal
    valid_from: datetime
    current: bool
    created_at: datetime


class ApiKeyAdded(View, frozen=True, kw_only=True):
    """A new key, shown this once."""

    key: str
    id: str
    role: str


class ApiKey(View, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    role: str
    name: str
    user: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Actor(View, frozen=True, kw_only=True):
    """Who is asking; `user` is whose things a `driver` may see."""

    id: str
    role: str
    user: str | None = None


class Session(View, frozen=True, kw_only=True):
    """One visit, with the members that the contract names.

    cost, fee and share are settled ones when `settled_at` is set; before that what they would be now.
    """

    id: UUID
    status: str
    station: str
    connector: int
    user: str | None
    transaction_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_reason: str | None
    energy_wh: int
    paid_minor: int
    cost_minor: int
    refund_minor: int
    fee_minor: int
    share_minor: int
    currency: str
    estimated: bool
    settled_at: datetime | None


class SessionRow(View, frozen=True, kw_only=True):
    """A session with everything that a page shows of it."""

    id: UUID
    status: str
    station: str
    connector: int
    user: str | None
    transaction_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_reason: str | None
    energy_wh: int
    paid_minor: int
    refunded_minor: int
    currency: str
    estimated: bool
    settled_at: datetime | None
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    power_w: float | None
    soc_percent: float | None
    heard_at: datetime | None
    created_at: datetime
    organization: str
    suspect: bool
    cost_minor: int | None
    fee_minor: int | None
    share_minor: int | None
    refund_minor: int | None
    owed_minor: int | None


class ReadingRow(View, frozen=True, kw_only=True):
    """What the meter said of one instant in one context."""

    at: datetime
    context: str
    register_wh: int | None
    power_w: float | None
    current_a: float | None
    soc_percent: float | None
    others: Mapping[str, Any] | None


class FindingView(View, frozen=True, kw_only=True):
    """A reason to doubt data, or something repaired, with its evidence."""

    id: int
    kind: str
    state: str
    station: str
    evse: int | None
    session: UUID | None
    summary: str
    evidence: Mapping[str, Any]
    found_at: datetime
    closed_at: datetime | None


class Frame(View, frozen=True, kw_only=True):
    """One message as it was on the wire; kind 2 CALL, 3 CALLRESULT, 4 CALLERROR."""

    id: int
    from_station: bool
    kind: int
    action: str
    message_id: str
    payload: str
    at: datetime


class AccountView(View, frozen=True, kw_only=True):
    """A bucket of money; the balance grows on the side that is natural for its kind."""

    code: str
    kind: str
    owner: str
    currency: str
    balance_minor: int
    created_at: datetime


class PostingView(View, frozen=True, kw_only=True):
    """One line of an entry."""

    entry_id: int
    line: int
    account: str
    side: str
    amount_minor: int
    currency: str
    balance_after: int | None


class EntryView(View, frozen=True, kw_only=True):
    """One balanced journal record with its lines."""

    id: int
    kind: str
    source: str
    version: int
    session: UUID | None
    reason: str
    recorded_at: datetime
    postings: list[PostingView] = []


class SettlementView(View, frozen=True, kw_only=True):
    """One settlement of a session: what was priced, and all versions' totals up to it."""

    version: int
    energy_wh: int
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    currency: str
    paid_minor: int
    cost_minor: int
    covered_minor: int
    refund_minor: int
    owed_minor: int
    fee_minor: int
    share_minor: int
    entry_id: int | None
    settled_at: datetime


class AskedOf(View, frozen=True, kw_only=True):
    """What we asked of a station for a session."""

    id: UUID
    action: str
    state: str
    created_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None


class SessionStory(View, frozen=True, kw_only=True):
    """Why a session's amounts are what they are: the sentence, and everything behind it."""

    session: Session
    sentence: str
    settlements: list[SettlementView]
    entries: list[EntryView]
    findings: list[FindingView]
    commands: list[AskedOf]


class FeedRow(View, frozen=True, kw_only=True):
    """One piece of news; its place in the order of commits is (xid, id)."""

    id: int
    xid: int
    kind: str
    station: str | None
    session: UUID | None
    payload: Mapping[str, Any]
    at: datetime


class FeedPlace(View, frozen=True, kw_only=True):
    """A place in the feed: everything up to it has been seen."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"


class Counts(View, frozen=True, kw_only=True):
    """How much there is of everything that the first page shows."""

    stations: int
    sessions_active: int
    sessions_pending: int
    sessions_unsettled: int
    findings_open: int


class MoneyOf(View, frozen=True, kw_only=True):
    """Where the money of one currency is."""

    currency: str
    wallets_minor: int
    held_minor: int
    fees_minor: int
    payable_minor: int
    receivable_minor: int
    received_minor: int
    refunded_minor: int = 0

    @property
    def unexplained_minor(self) -> int:
        """What came in or is owed to us, less what we owe and earned: zero in books that balance."""
        have = self.received_minor + self.receivable_minor
        owe = self.wallets_minor + self.held_minor + self.fees_minor + self.payable_minor
        return have - owe


class FindingCount(View, frozen=True, kw_only=True):
    """How many findings of a class are in a state."""

    kind: str
    state: str
    count: int


class LoopRun(View, frozen=True, kw_only=True):
    """The newest run of a periodic loop."""

    name: str
    last_run: datetime
    duration_s: float | None
    outcome: str | None


class Overview(View, frozen=True, kw_only=True):
    """Everything that the first page shows at once."""

    counts: Counts
    power_w: float
    money: list[MoneyOf]
    findings: list[FindingCount]
    loops: list[LoopRun]


class StoredAnswer(View, frozen=True, kw_only=True):
    """The answer that was given to a request with an idempotency key."""

    request_hash: bytes
    status: int
    response: bytes


class _Value(View, frozen=True, kw_only=True):
    value: Any


class _Refunded(View, frozen=True, kw_only=True):
    currency: str
    refunded_minor: int


# --- Small things --------------------------------------------------------------------------------------

_PASSWORD_LETTERS = string.ascii_letters + string.digits + "-_"
_PASSWORD_LENGTH = 24
_KEY_CACHE_S = 2.0
_KEY_CACHE_SIZE = 10_000
_NO_DECIMALS = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905 one list of codes
)
_THREE_DECIMALS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))


def new_password() -> str:
    """A station password that can be typed: 24 letters of 64, which is 144 bits of randomness."""
    return "".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(_PASSWORD_LENGTH))


def money_text(amount_minor: int, currency: str) -> str:
    """Minor units as people write them: `12,345.60 INR`."""
    places = 0 if currency in _NO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2
    return f"{Decimal(amount_minor).scaleb(-places):,.{places}f} {currency}"


def energy_text(energy_wh: int) -> str:
    """Whole Wh as people write them: `12.345 kWh`."""
    return f"{Decimal(energy_wh) / 1000:,.3f} kWh"


def station_url(address: Address, station_id: str) -> str:
    """Where a station connects to; an address that means "all" is shown as this machine's name for itself."""
    everywhere = address.host in ("0.0.0.0", "::", "")
    shown = Address("localhost", address.port) if everywhere else address
    return f"ws://{shown}/{quote(station_id, safe='')}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64]


def _text(field: str, text: str, *, most: int, least: int = 1) -> str:
    """The text without blanks at its ends, or InvalidInput."""
    trimmed = text.strip()
    if not least <= len(trimmed) <= most:
        raise InvalidInput(field, f"must be {least} to {most} characters")
    if not trimmed.isprintable():
        raise InvalidInput(field, "must not hold control characters")
    return trimmed


def _identity(field: str, text: str, *, most: int = 64) -> str:
    """A text that can stand in a path of a URL."""
    identity = _text(field, text, most=most)
    if "/" in identity or "\\" in identity or identity in (".", ".."):
        raise InvalidInput(field, "must not hold / or \\ and must not be . or ..")
    return identity


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise InvalidInput("currency", "must be three capital letters, like INR")
    return text


def _encode_cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def _decode_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...]:
    """The parts of a cursor, or as many None as there would be."""
    if cursor is None:
        return (None,) * len(kinds)
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        parts = msgspec.json.decode(raw, type=list[Any])
        if len(parts) != len(kinds):
            raise ValueError
        return tuple(msgspec.convert(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise InvalidInput("cursor", "is not one that a list gave; start again without it") from None


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput("limit", f"must be a number from 1 to {MAX_PAGE}")
    return limit


def _page(rows: list[Item], limit: int, key: Callable[[Item], tuple[object, ...]]) -> Page[Item]:
    """A page out of one row more than it holds."""
    more = len(rows) > limit
    items = rows[:limit]
    return Page(items=items, next_cursor=_encode_cursor(*key(items[-1])) if more else None)


def _rate_text(rate: Decimal) -> str:
    """A rate with at least two decimals, and as many more as it has."""
    exponent = rate.normalize().as_tuple().exponent
    return f"{rate:,.{max(2, -exponent if isinstance(exponent, int) else 2)}f}"


def session_of(row: SessionRow) -> Session:
    """A session as the contract shows it; live figures until it is settled."""
    if row.settled_at is not None and row.cost_minor is not None:
        cost, fee, share = row.cost_minor, row.fee_minor or 0, row.share_minor or 0
    else:
        charge = charge_session(
            energy=Wh(row.energy_wh),
            price=Price(per_kwh_minor=row.price_per_kwh_minor, currency=row.currency),
            paid=Minor(row.paid_minor),
            fee_percent=row.fee_percent,
        )
        cost, fee, share = charge.cost, charge.fee, charge.share
    return Session(
        id=row.id,
        status=row.status,
        station=row.station,
        connector=row.connector,
        user=row.user,
        transaction_id=row.transaction_id,
        started_at=row.started_at,
        ended_at=row.ended_at,
        stop_reason=row.stop_reason,
        energy_wh=row.energy_wh,
        paid_minor=row.paid_minor,
        cost_minor=cost,
        refund_minor=row.refunded_minor,
        fee_minor=fee,
        share_minor=share,
        currency=row.currency,
        estimated=row.estimated,
        settled_at=row.settled_at,
    )


def money_sentence(row: SessionRow) -> str:
    """A session's money in words, the way the books split it."""
    session = session_of(row)
    currency = row.currency
    paid = f"Paid {money_text(session.paid_minor, currency)}" if session.paid_minor else "Nothing paid"
    rate = money_text(1, currency).split()[0]
    per_kwh = Decimal(rate) * row.price_per_kwh_minor
    cost = money_text(session.cost_minor, currency)
    used = f"used {energy_text(session.energy_wh)} x {_rate_text(per_kwh)} = {cost}"
    if session.settled_at is None:
        running = State(row.status) not in ENDED
        return f"{paid}, {used} so far." if running else f"{paid}, {used}; not settled yet."
    owed = row.owed_minor or 0
    rest = f"; {money_text(owed, currency)} is owed to us" if owed else ""
    return (
        f"{paid}, {used}, refunded {money_text(session.refund_minor, currency)}{rest}; the organisation gets "
        f"{money_text(session.share_minor, currency)}, the platform fee is "
        f"{money_text(session.fee_minor, currency)}."
    )


# --- The catalogue -------------------------------------------------------------------------------------


class Catalog:
    """Everything that people manage and look at; see the module for its rules.

    `ocpp` is where stations connect; `currency` the one of users and tariffs that name none.
    """

    def __init__(self, store: CatalogStore, *, ocpp: Address, currency: str = "INR") -> None:
        self._store = store
        self._ocpp = ocpp
        self._default_currency = currency
        self._actors: dict[bytes, tuple[Actor | None, float]] = {}

    # --- stations ---

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
        station_id = _identity("id", id, most=48)
        versions = _versions(ocpp_versions)
        if not 0 <= security_profile <= 3:
            raise InvalidInput("security_profile", "must be a number from 0 to 3")
        if not 0 <= connectors <= 128:
            raise InvalidInput("connectors", "must be a number from 0 to 128")
        secret, hashed = await _secret_for(password, wanted=security_profile in (1, 2))
        async with self._store.unit_of_work() as work:
            made = await work.one(
                "catalog_station_add",
                _Value,
                station_id,
                organization,
                hashed,
                security_profile,
                versions,
                connectors,
            )
            if made is None:
                raise NotPossibleNow(f"station {station_id} exists already; change it instead of adding it")
            if price_per_kwh_minor is not None:
                await self._add_tariff(work, "station", station_id, price_per_kwh_minor, currency, None)
            await work.run("catalog_feed_insert", "station", station_id, None, '{"change":"added"}')
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
        (after,) = _decode_cursor(cursor, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_stations", Station, after, status, organization, count + 1)
            page = _page(rows, count, lambda s: (s.id,))
            return msgspec.structs.replace(page, items=await _with_connectors(work, page.items))

    async def station(self, id: str) -> Station:
        """One station with its connectors and open sessions. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            row = await work.one("catalog_station", Station, id)
            if row is None:
                raise NotFound(f"there is no station {id}")
            return (await _with_connectors(work, [row]))[0]

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
        secret, hashed = await _secret_for(password, wanted=True)
        await self._change_station(id, None, hashed, None, None, None, None)
        return StationAdded(id=id, url=station_url(self._ocpp, id), password=secret)

    async def _change_station(self, id: str, *values: object) -> None:
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_station_change", _Value, id, *values) is None:
                raise NotFound(f"there is no station {id}")
            await work.run("catalog_feed_insert", "station", id, None, '{"change":"changed"}')

    # --- tokens ---

    async def add_token(
        self,
        *,
        value: str,
        type: str = "ISO14443",
        status: str = "Accepted",
        group: str | None = None,
        user: str | None = None,
        expires_at: datetime | None = None,
    ) -> Token:
        """Registers an id token. Raises: InvalidInput, NotPossibleNow when it is registered already."""
        shown = _text("value", value, most=255)
        key = normal_token(shown)
        async with self._store.unit_of_work() as work:
            made = await work.one(
                "catalog_token_add",
                _Value,
                key,
                shown,
                _text("type", type, most=40),
                _token_status(status),
                group,
                user,
                expires_at,
            )
            if made is None:
                raise NotPossibleNow(f"token {shown} is registered already; change it instead of adding it")
            return await _token(work, key)

    async def tokens(
        self,
        *,
        status: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Token]:
        """Tokens by value."""
        (after,) = _decode_cursor(cursor, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_tokens", _TokenRow, after, status, user, count + 1)
        page = _page(rows, count, lambda t: (t.sort_key,))
        return Page(items=[_plain(row) for row in page.items], next_cursor=page.next_cursor)

    async def token(self, value: str) -> Token:
        """One token, in any spelling. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _token(work, normal_token(value))

    async def change_token(self, value: str, changes: Mapping[str, Any]) -> Token:
        """Changes the named fields: `type`, `status`, `group`, `user`, `expires_at`; None clears the last
        three.

        Raises: NotFound, InvalidInput.
        """
        async with self._store.unit_of_work() as work:
            key = normal_token(value)
            old = await _token(work, key)
            new = msgspec.structs.replace(old, **changes)
            await work.run(
                "catalog_token_change",
                key,
                new.type,
                _token_status(new.status),
                new.group,
                new.user,
                new.expires_at,
            )
            return new

    # --- users, wallets, money coming in ---

    async def add_user(self, *, name: str, currency: str | None = None, id: str | None = None) -> User:
        """Registers a user; the id comes from the name when none is given.

        Raises: InvalidInput, NotPossibleNow when the id is taken.
        """
        shown = _text("name", name, most=200)
        user_id = _identity("id", id) if id is not None else _slug(shown)
        if not user_id:
            raise InvalidInput("id", "must be given: the name holds no letter or digit to make one from")
        if ":" in user_id:
            raise InvalidInput("id", "must not hold a colon")
        code = _currency(currency or self._default_currency)
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_user_add", _Value, user_id, shown, code) is None:
                raise NotPossibleNow(f"user {user_id} exists already; give another id")
            return await _user(work, user_id)

    async def users(self, *, cursor: str | None = None, limit: int = 50) -> Page[User]:
        """Users by id."""
        (after,) = _decode_cursor(cursor, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_users", User, after, count + 1)
        return _page(rows, count, lambda u: (u.id,))

    async def user(self, id: str) -> User:
        """One user. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _user(work, id)

    async def wallet(self, user: str) -> Wallet:
        """What a user can spend and what is set aside. Raises: NotFound."""
        found = await self.user(user)
        return Wallet(
            user=found.id,
            balance_minor=found.balance_minor,
            held_minor=found.held_minor,
            currency=found.currency,
        )

    async def wallet_transactions(self, user: str, *, cursor: str | None = None, limit: int = 50) -> Page[WalletLine]:
        """The movements of a wallet, newest first. Raises: NotFound."""
        before, line = _decode_cursor(cursor, int, int)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            await _user(work, user)
            rows = await work.many("catalog_wallet_lines", WalletLine, user, before, line, count + 1)
        return _page(rows, count, lambda r: (r.id, r.line))

    async def top_up(self, user: str, amount_minor: int, *, key: str | None = None) -> TopUp:
        """Puts money that came in from outside into a wallet, once a key.

        The key names the payment, whoever sends it: a retry under another API key is still a retry.
        Effects: one balanced entry, one feed row.
        Raises: NotFound, InvalidInput, SameKeyOtherInput when the key came with another user or amount.
        """
        if not 1 <= amount_minor <= MAX_AMOUNT_MINOR:
            raise InvalidInput("amount_minor", f"must be a number from 1 to {MAX_AMOUNT_MINOR}")
        payment = _text("key", key, most=200) if key is not None else secrets.token_hex(16)
        async with self._store.unit_of_work() as work:
            found = await _user(work, user)
            entry = topup_entry(key=payment, user=UserId(found.id), currency=found.currency, amount=Minor(amount_minor))
            if entry is None:
                raise InvariantBroken("a top-up of a positive amount made no entry")
            fresh = await work.post(entry)
            stored = await work.one("catalog_topup", TopUp, payment)
            if stored is None:
                raise InvariantBroken(f"top-up {payment} is neither new nor recorded")
            if (stored.user, stored.amount_minor, stored.currency) != (
                found.id,
                amount_minor,
                found.currency,
            ):
                raise SameKeyOtherInput("this key was used for another top-up; use a new key for a new payment")
            if fresh:
                news = {"user": found.id, "amount_minor": amount_minor, "currency": found.currency}
                await work.run("catalog_feed_insert", "topup", None, None, msgspec.json.encode(news).decode())
            return stored

    # --- organisations and prices ---

    async def add_organization(
        self, *, name: str, id: str | None = None, fee_percent: Decimal | None = None
    ) -> Organization:
        """Registers an owner of stations. Raises: InvalidInput, NotPossibleNow when the id is taken."""
        shown = _text("name", name, most=200)
        organization_id = _identity("id", id) if id is not None else _slug(shown)
        if not organization_id or ":" in organization_id:
            raise InvalidInput("id", "must be 1 to 64 characters without a colon")
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_organization_add", _Value, organization_id, shown, fee_percent) is None:
                raise NotPossibleNow(f"organisation {organization_id} exists already; give another id")
            return await _organization(work, organization_id)

    async def organizations(self, *, cursor: str | None = None, limit: int = 50) -> Page[Organization]:
        """Organisations by id."""
        (after,) = _decode_cursor(cursor, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_organizations", Organization, after, count + 1)
        return _page(rows, count, lambda o: (o.id,))

    async def organization(self, id: str) -> Organization:
        """One organisation. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _organization(work, id)

    async def change_organization(
        self,
        id: str,
        *,
        name: str | None = None,
        fee_percent: Decimal | None = None,
        fee_as_set: bool = False,
    ) -> Organization:
        """Changes name and fee from now on; `fee_as_set` goes back to the setting. Raises: NotFound."""
        shown = None if name is None else _text("name", name, most=200)
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_organization_change", _Value, id, shown, fee_percent, fee_as_set) is None:
                raise NotFound(f"there is no organisation {id}")
            return await _organization(work, id)

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
            if scope == "organization":
                await _organization(work, scope_id)
            elif scope == "station":
                if await work.one("catalog_station", Station, scope_id) is None:
                    raise NotFound(f"there is no station {scope_id}")
            elif scope_id:
                raise InvalidInput("scope_id", "must be empty for the default tariff")
            return await self._add_tariff(work, scope, scope_id, price_per_kwh_minor, currency, valid_from)

    async def _add_tariff(
        self,
        work: CatalogWork,
        scope: Scope,
        scope_id: str,
        price: Decimal,
        currency: str | None,
        valid_from: datetime | None,
    ) -> Tariff:
        if not price.is_finite() or not 0 <= price < 10**10:
            raise InvalidInput("price_per_kwh_minor", "must be a number from 0 to 9999999999")
        exponent = price.normalize().as_tuple().exponent
        if isinstance(exponent, int) and exponent < -4:
            raise InvalidInput("price_per_kwh_minor", "must have at most 4 decimals")
        code = _currency(currency or self._default_currency)
        made = await work.one("catalog_tariff_add", Tariff, scope, scope_id, code, price, valid_from)
        if made is None:
            raise InvariantBroken("a tariff was neither written nor refused")
        return made

    async def tariffs(
        self,
        *,
        scope: str | None = None,
        scope_id: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Tariff]:
        """Prices, newest first."""
        (before,) = _decode_cursor(cursor, int)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_tariffs", Tariff, before, scope, scope_id, count + 1)
        return _page(rows, count, lambda t: (t.id,))

    async def tariff_of_station(self, station: str) -> Tariff | None:
        """The price that a session there would start with now; None where no tariff was ever set."""
        async with self._store.unit_of_work() as work:
            return await work.one("catalog_tariff_of_station", Tariff, station)

    # --- keys to the API ---

    async def add_key(
        self, *, role: str, name: str = "", user: str | None = None, expires_at: datetime | None = None
    ) -> ApiKeyAdded:
        """Makes a key: 32 random bytes, shown this once. A `driver` key needs its user, others have none."""
        if role not in ROLES:
            raise InvalidInput("role", f"must be one of {', '.join(ROLES)}")
        if (role == "driver") != (user is not None):
            raise InvalidInput("user", "must be given for the role driver, and only for it")
        key = f"vl_{secrets.token_urlsafe(32)}"
        key_id = f"key_{secrets.token_hex(6)}"
        label = _text("name", name, most=200, least=0)
        async with self._store.unit_of_work() as work:
            await work.one("catalog_key_add", _Value, key_id, _digest(key), role, label, user, expires_at)
        return ApiKeyAdded(key=key, id=key_id, role=role)

    async def keys(self) -> Page[ApiKey]:
        """The newest keys, without their secrets."""
        async with self._store.unit_of_work() as work:
            return Page(items=await work.many("catalog_keys", ApiKey, MAX_PAGE))

    async def revoke_key(self, id: str) -> None:
        """Ends a key: here at once, on other nodes within two seconds. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_key_revoke", _Value, id) is None:
                raise NotFound(f"there is no key {id}")
        self._actors.clear()

    async def actor_of(self, key: str) -> Actor | None:
        """Who a key belongs to, or None; remembered for two seconds, by its hash only.

        Raises: StoreUnavailable.
        """
        digest = _digest(key)
        known = self._actors.get(digest)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        async with self._store.unit_of_work() as work:
            actor = await work.one("catalog_key_by_hash", Actor, digest)
        if len(self._actors) >= _KEY_CACHE_SIZE:
            self._actors.clear()
        self._actors[digest] = (actor, time.monotonic() + _KEY_CACHE_S)
        return actor

    # --- sessions ---

    async def session_rows(
        self,
        *,
        status: Sequence[str] | None = None,
        station: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[SessionRow]:
        """Sessions, newest first, with everything that a page shows of them."""
        (before,) = _decode_cursor(cursor, UUID)
        count = _limit(limit)
        for word in status or ():
            if word not in {s.value for s in State}:
                raise InvalidInput("status", f"must be one of {', '.join(s.value for s in State)}")
        async with self._store.unit_of_work() as work:
            wanted = list(status) if status else None
            rows = await work.many("catalog_sessions", SessionRow, before, wanted, station, user, count + 1)
        return _page(rows, count, lambda s: (s.id,))

    async def sessions(
        self,
        *,
        status: Sequence[str] | None = None,
        station: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Session]:
        """Sessions, newest first, as the contract shows them."""
        page = await self.session_rows(status=status, station=station, user=user, cursor=cursor, limit=limit)
        return Page(items=[session_of(row) for row in page.items], next_cursor=page.next_cursor)

    async def session(self, id: UUID, *, user: str | None = None) -> Session:
        """One session; with `user`, somebody else's looks like one that does not exist. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return session_of(await _session(work, id, user))

    async def readings(
        self, session: UUID, *, user: str | None = None, cursor: str | None = None, limit: int = 200
    ) -> Page[ReadingRow]:
        """What the meter said in a session, in order of time. Raises: NotFound."""
        at, context = _decode_cursor(cursor, datetime, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            await _session(work, session, user)
            rows = await work.many("catalog_readings", ReadingRow, session, at, context, count + 1)
        return _page(rows, count, lambda r: (r.at, r.context))

    async def explain(self, id: UUID, *, user: str | None = None) -> SessionStory:
        """Why a session's amounts are what they are. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            row = await _session(work, id, user)
            entries = await work.many("catalog_entries", EntryView, None, None, id, MAX_PAGE)
            return SessionStory(
                session=session_of(row),
                sentence=money_sentence(row),
                settlements=await work.many("catalog_settlements", SettlementView, id),
                entries=list(reversed(await _with_postings(work, entries))),
                findings=await work.many("catalog_findings", FindingView, None, None, None, None, id, MAX_PAGE),
                commands=await work.many("catalog_commands_of_session", AskedOf, id),
            )

    # --- findings, frames, books, news ---

    async def findings(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        station: str | None = None,
        session: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[FindingView]:
        """Findings, newest first."""
        (before,) = _decode_cursor(cursor, int)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_findings", FindingView, before, state, kind, station, session, count + 1)
        return _page(rows, count, lambda f: (f.id,))

    async def finding(self, id: int) -> FindingView:
        """One finding. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _finding(work, id)

    async def close_finding(self, id: int, decision: Literal["accept", "dismiss"]) -> FindingView:
        """A person's decision: `accept` notes it, `dismiss` says it is nothing; again, it changes nothing.

        Raises: NotFound, NotPossibleNow when it was closed otherwise.
        """
        state = {"accept": "noted", "dismiss": "dismissed"}[decision]
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_finding_close", _Value, id, state) is None:
                found = await _finding(work, id)
                if found.state != state:
                    raise NotPossibleNow(f"finding {id} is {found.state} already")
                return found
            found = await _finding(work, id)
            news = msgspec.json.encode({"id": id, "kind": found.kind, "state": state}).decode()
            await work.run("catalog_feed_insert", "finding", found.station, found.session, news)
            return found

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
        (before,) = _decode_cursor(cursor, int)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            if await work.one("catalog_station", Station, station) is None:
                raise NotFound(f"there is no station {station}")
            rows = await work.many("catalog_frames", Frame, station, before, action, text, count + 1)
        page = _page(rows, count, lambda f: (f.id,))
        return msgspec.structs.replace(page, items=[_masked(frame) for frame in page.items])

    async def accounts(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[AccountView]:
        """Accounts by code, with their balances."""
        (after,) = _decode_cursor(cursor, str)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_accounts", AccountView, after, kind, owner, count + 1)
        return _page(rows, count, lambda a: (a.code,))

    async def entries(
        self,
        *,
        kind: str | None = None,
        session: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[EntryView]:
        """Entries with their lines, newest first."""
        (before,) = _decode_cursor(cursor, int)
        count = _limit(limit)
        async with self._store.unit_of_work() as work:
            rows = await work.many("catalog_entries", EntryView, before, kind, session, count + 1)
            page = _page(rows, count, lambda e: (e.id,))
            return msgspec.structs.replace(page, items=await _with_postings(work, page.items))

    async def feed_end(self) -> FeedPlace:
        """The place after everything that is committed now."""
        async with self._store.unit_of_work() as work:
            place = await work.one("catalog_feed_end", FeedPlace)
        if place is None:
            raise InvariantBroken("the feed has no end")
        return place

    async def feed(self, after: FeedPlace, *, limit: int = 500) -> list[FeedRow]:
        """News after a place, in the order of commits; a row that commits late is never skipped."""
        async with self._store.unit_of_work() as work:
            return await work.many("catalog_feed", FeedRow, str(after.xid), after.id, limit)

    async def overview(self) -> Overview:
        """Everything that the first page shows."""
        async with self._store.unit_of_work() as work:
            counts = await work.one("catalog_counts", Counts)
            power = await work.one("catalog_power", _Value)
            if counts is None or power is None:
                raise InvariantBroken("a count came back without a row")
            refunded = {r.currency: r.refunded_minor for r in await work.many("catalog_refunded", _Refunded)}
            money = await work.many("catalog_money", MoneyOf)
            return Overview(
                counts=counts,
                power_w=power.value,
                money=[msgspec.structs.replace(m, refunded_minor=refunded.get(m.currency, 0)) for m in money],
                findings=await work.many("catalog_findings_by_kind", FindingCount),
                loops=await work.many("catalog_loops", LoopRun),
            )

    # --- answers that were given ---

    async def stored_answer(self, actor: str, key: str) -> StoredAnswer | None:
        """The answer that an actor's request with this idempotency key got."""
        async with self._store.unit_of_work() as work:
            return await work.one("catalog_idempotency_get", StoredAnswer, actor, key)

    async def store_answer(self, actor: str, key: str, answer: StoredAnswer) -> None:
        """Keeps an answer for its key; the first one stands."""
        async with self._store.unit_of_work() as work:
            await work.run("catalog_idempotency_put", actor, key, answer.request_hash, answer.status, answer.response)


def _digest(key: str) -> bytes:
    """Keys are random, so that one round of a fast hash protects them."""
    return hashlib.sha256(key.encode()).digest()


def _versions(given: Sequence[str]) -> list[str]:
    """Subprotocols in the order given; `1.6` means `ocpp1.6`."""
    versions = [v if v.startswith("ocpp") else f"ocpp{v}" for v in given]
    if not versions or any(v not in OCPP_VERSIONS for v in versions):
        raise InvalidInput("ocpp_versions", f"must name at least one of {', '.join(OCPP_VERSIONS)}, and nothing else")
    return list(dict.fromkeys(versions))


async def _secret_for(password: str | None, *, wanted: bool) -> tuple[str | None, str | None]:
    """The password and what is kept of it; both None where none is given and none is wanted."""
    if password is None:
        if not wanted:
            return None, None
        made = new_password()
        return made, hash_password(made, generated=True)
    if not 1 <= len(password) <= 128 or not password.isprintable():
        raise InvalidInput("password", "must be 1 to 128 characters without control characters")
    return password, await asyncio.to_thread(hash_password, password, generated=False)


def _token_status(status: str) -> str:
    words = [s.value for s in AuthorizationStatus]
    if status not in words:
        raise InvalidInput("status", f"must be one of {', '.join(words)}")
    return status


def _plain(row: _TokenRow) -> Token:
    return Token(**{name: getattr(row, name) for name in Token.__struct_fields__})


async def _token(work: CatalogWork, value: str) -> Token:
    row = await work.one("catalog_token", _TokenRow, value)
    if row is None:
        raise NotFound(f"there is no token {value}")
    return _plain(row)


async def _user(work: CatalogWork, id: str) -> User:
    row = await work.one("catalog_user", User, id)
    if row is None:
        raise NotFound(f"there is no user {id}")
    return row


async def _organization(work: CatalogWork, id: str) -> Organization:
    row = await work.one("catalog_organization", Organization, id)
    if row is None:
        raise NotFound(f"there is no organisation {id}")
    return row


async def _session(work: CatalogWork, id: UUID, user: str | None) -> SessionRow:
    row = await work.one("catalog_session", SessionRow, id)
    if row is None or (user is not None and row.user != user):
        raise NotFound(f"there is no session {id}")
    return row


async def _finding(work: CatalogWork, id: int) -> FindingView:
    row = await work.one("catalog_finding", FindingView, id) if abs(id) < 2**63 else None
    if row is None:
        raise NotFound(f"there is no finding {id}")
    return row


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


async def _with_postings(work: CatalogWork, entries: list[EntryView]) -> list[EntryView]:
    lines = await work.many("catalog_postings", PostingView, [e.id for e in entries])
    return [msgspec.structs.replace(e, postings=[line for line in lines if line.entry_id == e.id]) for e in entries]


_SECRET_NAMES = ("AuthorizationKey", "BasicAuthPassword", "basicAuthPassword")
_SECRET_VALUE = re.compile(r'("(?:value|attributeValue|basicAuthPassword)"\s*:\s*)"(?:[^"\\]|\\.)*"')


def _masked(frame: Frame) -> Frame:
    """The frame without the passwords that a configuration message may carry."""
    if not any(name in frame.payload for name in _SECRET_NAMES):
        return frame
    return msgspec.structs.replace(frame, payload=_SECRET_VALUE.sub(r'\1"***"', frame.payload))
