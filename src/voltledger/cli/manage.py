"""Commands on what is registered: stations, tokens, users, organisations, wallets, tariffs, API keys.

They work on the database of a running server, whether it runs or not; each has `--json`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import segno
from cyclopts import App, Parameter

from voltledger.bootstrap import open_catalog
from voltledger.cli.numbers import Whole
from voltledger.cli.output import emit, emit_rows, out
from voltledger.cli.servers import command_database
from voltledger.config import Settings, load_settings
from voltledger.errors import UserFacingError
from voltledger.services.catalog import WEAK_PASSWORD, Catalog, StationAdded, money_text

T = TypeVar("T")
Json = Annotated[bool, Parameter(help="Print JSON for machines.", negative=())]

station = App(name="station", help="Charging stations.")
token = App(name="token", help="Tokens that identify drivers at a station.")
user = App(name="user", help="Users, whose money is in wallets.")
org = App(name="org", help="Organisations that own stations.")
wallet = App(name="wallet", help="Users' prepaid money.")
tariff = App(name="tariff", help="Prices.")
apikey = App(name="apikey", help="Keys to the API.")

GROUPS = (station, token, user, org, wallet, tariff, apikey)


def settings_here() -> Settings:
    """The settings of the environment and of `.env` in the working folder."""
    return load_settings(os.environ, Path(".env"))


def with_catalog(work: Callable[[Catalog], Awaitable[T]]) -> T:
    """Runs work on the catalogue of the configured database."""
    settings = settings_here()

    async def run(dsn: str) -> T:
        async with open_catalog(settings, dsn) as catalog:
            return await work(catalog)

    with command_database(settings) as dsn:
        return asyncio.run(run(dsn))


@station.command(name="add")
def station_add(
    id: str,
    *,
    password: str | None = None,
    profile: Whole = 1,
    connectors: Whole = 1,
    org: str = "default",
    json: Json = False,
) -> None:
    """Registers a station and prints what to type into it; without --password one is made.

    A password has 4 to 128 characters; stations of OCPP 1.6 take 16 to 20.

    Example: voltledger station add CP-1 --connectors 2
    """
    added = with_catalog(
        lambda catalog: catalog.add_station(
            id=id, password=password, security_profile=profile, connectors=connectors, organization=org
        )
    )
    emit(added, json=json, text=_type_this(added, "is registered"))
    if not json:
        out.print(_qr(added.url))


def _type_this(added: StationAdded, what: str) -> str:
    lines = [f"Station {added.id} {what}. Type into the station:", f"  URL       {added.url}"]
    if added.password is not None:
        lines += [f"  User      {added.id}", f"  Password  {added.password}   (shown this once)"]
        if len(added.password) < WEAK_PASSWORD:
            lines.append(
                f"This password is shorter than {WEAK_PASSWORD} characters, which is easy to guess and some stations "
                f"refuse: voltledger station password {added.id} makes a better one."
            )
    return "\n".join(lines)


def _qr(text: str) -> str:
    import io

    drawn = io.StringIO()
    segno.make(text, error="m").terminal(drawn, compact=True)
    return drawn.getvalue()


@station.command(name="password")
def station_password(id: str, *, password: str | None = None, json: Json = False) -> None:
    """Gives a station another password, from its next connection on, and prints it this once.

    Example: voltledger station password CP-1
    """
    changed = with_catalog(lambda catalog: catalog.set_station_password(id, password=password))
    emit(changed, json=json, text=_type_this(changed, "has another password"))


@station.command(name="disable")
def station_disable(id: str, *, json: Json = False) -> None:
    """Lets a station connect no more; its sessions and books stay. Example: voltledger station disable CP-1"""
    changed = with_catalog(lambda catalog: catalog.change_station(id, disabled=True))
    text = f"Station {id} is disabled: it may not connect, and a running server ends its connection within seconds."
    emit(changed, json=json, text=text)


@station.command(name="enable")
def station_enable(id: str, *, json: Json = False) -> None:
    """Lets a disabled station connect again. Example: voltledger station enable CP-1"""
    changed = with_catalog(lambda catalog: catalog.change_station(id, disabled=False))
    emit(changed, json=json, text=f"Station {id} is enabled: it may connect.")


@station.command(name="list")
def station_list(*, json: Json = False) -> None:
    """Lists stations. Example: voltledger station list --json"""
    rows = with_catalog(lambda catalog: _all(lambda cursor: catalog.stations(cursor=cursor, limit=200)))
    columns = {
        "id": "station",
        "status": "status",
        "vendor": "vendor",
        "model": "model",
        "last_seen_at": "last seen",
    }
    emit_rows(rows, columns, json=json, empty="No station yet: voltledger station add CP-1")


@station.command(name="show")
def station_show(id: str, *, json: Json = False) -> None:
    """Shows one station. Example: voltledger station show CP-1"""
    found = with_catalog(lambda catalog: catalog.station(id))
    emit(found, json=json, text=plain(found))


@token.command(name="add")
def token_add(
    value: str,
    *,
    status: str = "Accepted",
    group: str | None = None,
    user: str | None = None,
    json: Json = False,
) -> None:
    """Registers a token. Example: voltledger token add 04A1B2C3 --user asha"""
    added = with_catalog(lambda catalog: catalog.add_token(value=value, status=status, group=group, user=user))
    emit(added, json=json, text=f"Token {added.value} is {added.status}.")


@token.command(name="list")
def token_list(*, json: Json = False) -> None:
    """Lists tokens. Example: voltledger token list"""
    rows = with_catalog(lambda catalog: _all(lambda cursor: catalog.tokens(cursor=cursor, limit=200)))
    columns = {"value": "token", "status": "status", "group": "group", "user": "user"}
    emit_rows(rows, columns, json=json, empty="No token yet: voltledger token add 04A1B2C3 --user asha")


@user.command(name="add")
def user_add(name: str, *, currency: str | None = None, id: str | None = None, json: Json = False) -> None:
    """Registers a user with an empty wallet. Example: voltledger user add Asha --currency INR"""
    added = with_catalog(lambda catalog: catalog.add_user(name=name, currency=currency, id=id))
    answer = {"id": added.id, "name": added.name, "balance_minor": 0, "currency": added.currency}
    emit(answer, json=json, text=f"User {added.id} has an empty wallet in {added.currency}.")


@user.command(name="list")
def user_list(*, json: Json = False) -> None:
    """Lists users. Example: voltledger user list"""
    rows = with_catalog(lambda catalog: _all(lambda cursor: catalog.users(cursor=cursor, limit=200)))
    emit_rows(rows, {"id": "user", "name": "name", "currency": "currency"}, json=json, empty="No user yet.")


@org.command(name="add")
def org_add(name: str, *, fee_percent: str | None = None, id: str | None = None, json: Json = False) -> None:
    """Registers an organisation; --fee-percent replaces the platform's usual fee.

    Example: voltledger org add "Green Way" --fee-percent 8
    """
    fee = None if fee_percent is None else _number("--fee-percent", fee_percent)
    added = with_catalog(lambda catalog: catalog.add_organization(name=name, id=id, fee_percent=fee))
    emit(added, json=json, text=f"Organisation {added.id} is registered.")


@org.command(name="list")
def org_list(*, json: Json = False) -> None:
    """Lists organisations. Example: voltledger org list"""
    rows = with_catalog(lambda catalog: _all(lambda cursor: catalog.organizations(cursor=cursor, limit=200)))
    emit_rows(rows, {"id": "organisation", "name": "name"}, json=json, empty="No organisation yet.")


@wallet.command(name="topup")
def wallet_topup(user: str, amount_minor: str, *, key: str | None = None, json: Json = False) -> None:
    """Puts money into a wallet, in minor units; the same --key counts once.

    Example: voltledger wallet topup asha 100000 --key payment-4711
    """

    if not (amount_minor.isascii() and amount_minor.isdecimal()):
        raise UserFacingError(f"{amount_minor!r} is no whole number of minor units; for 12.50 INR say 1250")
    amount = int(amount_minor)

    async def work(catalog: Catalog) -> dict[str, Any]:
        await catalog.top_up(user, amount, key=key)
        return _wallet(await catalog.wallet(user), user)

    answer = with_catalog(work)
    text = f"The wallet of {user} holds {money_text(answer['balance_minor'], answer['currency'])}."
    emit(answer, json=json, text=text)


@wallet.command(name="show")
def wallet_show(user: str, *, json: Json = False) -> None:
    """Shows a wallet. Example: voltledger wallet show asha"""
    found = with_catalog(lambda catalog: catalog.wallet(user))
    emit(_wallet(found, user), json=json, text=plain(found))


def _wallet(found: Any, user: str) -> dict[str, Any]:
    return {
        "id": user,
        "balance_minor": found.balance_minor,
        "held_minor": found.held_minor,
        "currency": found.currency,
    }


@tariff.command(name="set")
def tariff_set(
    *,
    price_per_kwh_minor: str,
    currency: str | None = None,
    station: str | None = None,
    org: str | None = None,
    json: Json = False,
) -> None:
    """Sets a price from now on: the default one, or one of a station or an organisation.

    Example: voltledger tariff set --price-per-kwh-minor 2000 --currency INR
    """
    if station is not None and org is not None:
        raise UserFacingError("give --station or --org, not both")
    price = _number("--price-per-kwh-minor", price_per_kwh_minor)
    scope: Any = "station" if station is not None else "organization" if org is not None else "default"
    made = with_catalog(
        lambda catalog: catalog.set_tariff(
            price_per_kwh_minor=price, currency=currency, scope=scope, scope_id=station or org or ""
        )
    )
    emit(made, json=json, text=f"From now on one kWh costs {price} minor units of {made.currency}.")


@tariff.command(name="list")
def tariff_list(*, json: Json = False) -> None:
    """Lists prices, the newest first. Example: voltledger tariff list"""
    rows = with_catalog(lambda catalog: _all(lambda cursor: catalog.tariffs(cursor=cursor, limit=200)))
    columns = {"scope": "scope", "scope_id": "of", "price_per_kwh_minor": "per kWh", "currency": "currency"}
    emit_rows(rows, columns, json=json, empty="No price yet: voltledger tariff set --price-per-kwh-minor 2000")


@apikey.command(name="add")
def apikey_add(*, role: str, name: str = "", user: str | None = None, json: Json = False) -> None:
    """Makes an API key and shows it this once. Example: voltledger apikey add --role admin"""
    made = with_catalog(lambda catalog: catalog.add_key(role=role, name=name, user=user))
    answer = {"key": made.key, "id": made.id, "role": made.role}
    emit(answer, json=json, text=f"Key {made.id} ({made.role}), shown this once:\n{made.key}")


@apikey.command(name="list")
def apikey_list(*, json: Json = False) -> None:
    """Lists API keys, never the keys themselves. Example: voltledger apikey list"""
    page = with_catalog(lambda catalog: catalog.keys())
    emit_rows(page.items, {"id": "key", "role": "role", "name": "name"}, json=json, empty="No key yet.")


@apikey.command(name="revoke")
def apikey_revoke(id: str, *, json: Json = False) -> None:
    """Makes a key useless. Example: voltledger apikey revoke key_0123456789ab"""
    with_catalog(lambda catalog: catalog.revoke_key(id))
    emit({"id": id, "revoked": True}, json=json, text=f"Key {id} is revoked.")


async def _all(page: Callable[[str | None], Awaitable[Any]]) -> list[Any]:
    rows: list[Any] = []
    cursor: str | None = None
    while True:
        found = await page(cursor)
        rows.extend(found.items)
        cursor = found.next_cursor
        if cursor is None:
            return rows


def _number(option: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise UserFacingError(f"{option} must be a number, not {text!r}") from None
    if not value.is_finite():
        raise UserFacingError(f"{option} must be a number, not {text!r}")
    return value


def plain(value: Any) -> str:
    """A value as lines of names and texts."""
    fields = msgspec.to_builtins(value, enc_hook=str)
    return "\n".join(f"{name:24} {'' if text is None else text}" for name, text in fields.items())
