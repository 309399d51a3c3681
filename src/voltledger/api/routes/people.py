"""Tokens, users, organisations, wallets, prices and keys."""

from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET

from voltledger.api.idempotency import key_of, once
from voltledger.api.inputs import (
    NewKey,
    NewOrganization,
    NewTariff,
    NewToken,
    NewTopUp,
    NewUser,
    OrganizationChange,
    TokenChange,
)
from voltledger.api.wire import AnyRequest, own_user, runtime_of
from voltledger.domain.errors import NotFound
from voltledger.services.catalog import (
    ApiKey,
    ApiKeyAdded,
    Organization,
    Page,
    Tariff,
    Token,
    TopUp,
    User,
    Wallet,
    WalletLine,
)

Limit = Annotated[int, QueryParameter(ge=1, le=500)]


def _refuse_foreign(request: AnyRequest, user_id: str) -> None:
    """A driver's key sees its own user; another one looks like an absent one."""
    own = own_user(request)
    if own is not None and own != user_id:
        raise NotFound(f"there is no user {user_id}")


@get("/tokens", summary="List id tokens")
async def list_tokens(
    request: AnyRequest,
    status: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[Token]:
    """Tokens by value."""
    return await runtime_of(request).catalog.tokens(status=status, user=user, cursor=cursor, limit=limit)


@post("/tokens", summary="Register an id token")
async def add_token(request: AnyRequest, data: JSONBody[NewToken]) -> Token:
    """Tokens are compared without blanks around them and without case; the spelling given is shown."""
    return await runtime_of(request).catalog.add_token(**msgspec.structs.asdict(data))


@get("/tokens/{value:str}", summary="Show an id token")
async def show_token(request: AnyRequest, value: FromPath[str]) -> Token:
    """In any spelling."""
    return await runtime_of(request).catalog.token(value)


@patch("/tokens/{value:str}", summary="Change an id token")
async def change_token(request: AnyRequest, value: FromPath[str], data: JSONBody[TokenChange]) -> Token:
    """What is not given stays as it is."""
    given = {k: v for k, v in msgspec.structs.asdict(data).items() if v is not UNSET}
    return await runtime_of(request).catalog.change_token(value, given)


@get("/users", summary="List users")
async def list_users(request: AnyRequest, cursor: FromQuery[str | None] = None, limit: Limit = 50) -> Page[User]:
    """Users by id."""
    return await runtime_of(request).catalog.users(cursor=cursor, limit=limit)


@post("/users", summary="Register a user")
async def add_user(request: AnyRequest, data: JSONBody[NewUser]) -> User:
    """With an empty wallet in one currency."""
    return await runtime_of(request).catalog.add_user(name=data.name, currency=data.currency, id=data.id)


@get("/users/{user_id:str}", summary="Show a user")
async def show_user(request: AnyRequest, user_id: FromPath[str]) -> User:
    """With what can be spent and what is set aside."""
    _refuse_foreign(request, user_id)
    return await runtime_of(request).catalog.user(user_id)


@get("/organizations", summary="List organisations")
async def list_organizations(
    request: AnyRequest, cursor: FromQuery[str | None] = None, limit: Limit = 50
) -> Page[Organization]:
    """Organisations by id."""
    return await runtime_of(request).catalog.organizations(cursor=cursor, limit=limit)


@post("/organizations", summary="Register an organisation")
async def add_organization(request: AnyRequest, data: JSONBody[NewOrganization]) -> Organization:
    """Owners of stations; the platform's fee may be theirs alone."""
    return await runtime_of(request).catalog.add_organization(**msgspec.structs.asdict(data))


@get("/organizations/{organization_id:str}", summary="Show an organisation")
async def show_organization(request: AnyRequest, organization_id: FromPath[str]) -> Organization:
    """One owner of stations."""
    return await runtime_of(request).catalog.organization(organization_id)


@patch("/organizations/{organization_id:str}", summary="Change an organisation")
async def change_organization(
    request: AnyRequest, organization_id: FromPath[str], data: JSONBody[OrganizationChange]
) -> Organization:
    """The fee counts for sessions that begin from now on."""
    fee = None if data.fee_percent is UNSET else data.fee_percent
    return await runtime_of(request).catalog.change_organization(
        organization_id, name=data.name, fee_percent=fee, fee_as_set=data.fee_percent is None
    )


@get("/wallets/{user_id:str}", summary="Show a wallet")
async def show_wallet(request: AnyRequest, user_id: FromPath[str]) -> Wallet:
    """`balance_minor` can be spent; `held_minor` is set aside for sessions."""
    _refuse_foreign(request, user_id)
    return await runtime_of(request).catalog.wallet(user_id)


@get("/wallets/{user_id:str}/transactions", summary="The movements of a wallet")
async def list_wallet_transactions(
    request: AnyRequest, user_id: FromPath[str], cursor: FromQuery[str | None] = None, limit: Limit = 50
) -> Page[WalletLine]:
    """Newest first."""
    _refuse_foreign(request, user_id)
    return await runtime_of(request).catalog.wallet_transactions(user_id, cursor=cursor, limit=limit)


@post("/wallets/{user_id:str}/topups", summary="Put money into a wallet")
async def top_up(request: AnyRequest, user_id: FromPath[str], data: JSONBody[NewTopUp]) -> Response[TopUp]:
    """Once an Idempotency-Key, which names the payment; without one every request is a new payment."""

    async def effect() -> TopUp:
        return await runtime_of(request).catalog.top_up(user_id, data.amount_minor, key=key_of(request))

    return await once(request, effect, status=201)


@get("/tariffs", summary="List prices")
async def list_tariffs(
    request: AnyRequest,
    scope_: Annotated[str | None, QueryParameter(name="scope")] = None,
    scope_id: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[Tariff]:
    """Newest first."""
    return await runtime_of(request).catalog.tariffs(scope=scope_, scope_id=scope_id, cursor=cursor, limit=limit)


@post("/tariffs", summary="Set a price")
async def set_tariff(request: AnyRequest, data: JSONBody[NewTariff]) -> Tariff:
    """Sessions that began keep the price they began with."""
    return await runtime_of(request).catalog.set_tariff(**msgspec.structs.asdict(data))


@get("/apikeys", summary="List keys to the API")
async def list_keys(request: AnyRequest) -> Page[ApiKey]:
    """Without their secrets, which nobody has."""
    return await runtime_of(request).catalog.keys()


@post("/apikeys", summary="Make a key to the API")
async def add_key(request: AnyRequest, data: JSONBody[NewKey]) -> ApiKeyAdded:
    """The key is answered this once; only its hash is kept."""
    return await runtime_of(request).catalog.add_key(**msgspec.structs.asdict(data))


@delete("/apikeys/{key_id:str}", summary="Revoke a key to the API")
async def revoke_key(request: AnyRequest, key_id: FromPath[str]) -> None:
    """It ends here at once, on other nodes within two seconds."""
    await runtime_of(request).catalog.revoke_key(key_id)


HANDLERS = (
    list_tokens,
    add_token,
    show_token,
    change_token,
    list_users,
    add_user,
    show_user,
    list_organizations,
    add_organization,
    show_organization,
    change_organization,
    show_wallet,
    list_wallet_transactions,
    top_up,
    list_tariffs,
    set_tariff,
    list_keys,
    add_key,
    revoke_key,
)
