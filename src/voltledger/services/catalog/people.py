"""Users, their wallets, and money that comes in."""

import secrets

from voltledger.domain.errors import InvalidInput, InvariantBroken, SameKeyOtherInput
from voltledger.domain.identifiers import UserId
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor
from voltledger.services.catalog.feed import announce
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, add, certain, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.values import currency_of, identity_or_slug, text_of
from voltledger.services.catalog.views.base import Page
from voltledger.services.catalog.views.people import TopUp, User, Wallet, WalletLine

MAX_AMOUNT_MINOR = 10**12
"""The largest top-up: well above any real one, well below what the books can count."""


class Users(Subject):
    """Those whose money we hold."""

    async def add_user(self, *, name: str, currency: str | None = None, id: str | None = None) -> User:
        """Registers a user; the id comes from the name when none is given.

        Raises: InvalidInput, NotPossibleNow when the id is taken.
        """
        shown = text_of("name", name, most=200)
        user_id = identity_or_slug(id, shown)
        if not user_id:
            raise InvalidInput("id", "must be given: the name holds no letter or digit to make one from")
        if ":" in user_id:
            raise InvalidInput("id", "must not hold a colon")
        code = currency_of(currency or self._default_currency)
        taken = f"user {user_id} exists already; give another id"
        async with self._store.unit_of_work() as work:
            await add(work, "catalog_user_add", user_id, shown, code, taken=taken)
            return await _user(work, user_id)

    async def users(self, *, cursor: str | None = None, limit: int = 50) -> Page[User]:
        """Users by id."""
        part = Slice.of(cursor, limit, str)
        async with self._store.unit_of_work() as work:
            return await read_page(work, "catalog_users", User, part, key=lambda u: (u.id,))

    async def user(self, id: str) -> User:
        """One user. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _user(work, id)


class Wallets(Subject):
    """What users can spend, and how it came and went."""

    async def wallet(self, user: str) -> Wallet:
        """What a user can spend and what is set aside. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            owner = await _user(work, user)
        return Wallet(
            user=owner.id,
            balance_minor=owner.balance_minor,
            held_minor=owner.held_minor,
            currency=owner.currency,
        )

    async def wallet_transactions(self, user: str, *, cursor: str | None = None, limit: int = 50) -> Page[WalletLine]:
        """The movements of a wallet, newest first. Raises: NotFound."""
        part = Slice.of(cursor, limit, int, int)
        async with self._store.unit_of_work() as work:
            await _user(work, user)
            return await read_page(
                work, "catalog_wallet_lines", WalletLine, part, key=lambda r: (r.id, r.line), within=(user,)
            )

    async def top_up(self, user: str, amount_minor: int, *, key: str | None = None) -> TopUp:
        """Puts money that came in from outside into a wallet, once a key.

        The key names the payment, whoever sends it: a retry under another API key is still a retry.
        Effects: one balanced entry, one feed row.
        Raises: NotFound, InvalidInput, SameKeyOtherInput when the key came with another user or amount.
        """
        if not 1 <= amount_minor <= MAX_AMOUNT_MINOR:
            raise InvalidInput("amount_minor", f"must be a number from 1 to {MAX_AMOUNT_MINOR}")
        payment = text_of("key", key, most=200) if key is not None else secrets.token_hex(16)
        async with self._store.unit_of_work() as work:
            owner = await _user(work, user)
            fresh = await work.post(_entry(payment, owner, amount_minor))
            stored = await _top_up(work, payment, owner, amount_minor)
            if fresh:
                news = {"user": owner.id, "amount_minor": amount_minor, "currency": owner.currency}
                await announce(work, "topup", news)
            return stored


async def _user(work: CatalogWork, id: str) -> User:
    return found(await work.one("catalog_user", User, id), f"user {id}")


def _entry(payment: str, owner: User, amount_minor: int) -> Entry:
    entry = topup_entry(key=payment, user=UserId(owner.id), currency=owner.currency, amount=Minor(amount_minor))
    if entry is None:
        raise InvariantBroken("a top-up of a positive amount made no entry")
    return entry


async def _top_up(work: CatalogWork, payment: str, owner: User, amount_minor: int) -> TopUp:
    """The top-up that is recorded under this key. Raises: SameKeyOtherInput if it is another one."""
    row = await work.one("catalog_topup", TopUp, payment)
    stored = certain(row, f"top-up {payment} is neither new nor recorded")
    if (stored.user, stored.amount_minor, stored.currency) != (owner.id, amount_minor, owner.currency):
        raise SameKeyOtherInput("this key was used for another top-up; use a new key for a new payment")
    return stored
