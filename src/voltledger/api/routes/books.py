"""Findings, the books, and the overview: what there is to look at and to decide."""

from typing import Annotated
from uuid import UUID

from litestar import get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from voltledger.api.wire import AnyRequest, runtime_of
from voltledger.domain.errors import NotPossibleNow
from voltledger.services.catalog import AccountView, EntryView, FindingView, Overview, Page

Limit = Annotated[int, QueryParameter(ge=1, le=500)]


@get("/findings", summary="List findings")
async def list_findings(
    request: AnyRequest,
    state_: Annotated[str | None, QueryParameter(name="state")] = None,
    kind: FromQuery[str | None] = None,
    station: FromQuery[str | None] = None,
    session: FromQuery[UUID | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[FindingView]:
    """Newest first, with evidence."""
    return await runtime_of(request).catalog.findings(
        state=state_, kind=kind, station=station, session=session, cursor=cursor, limit=limit
    )


@get("/findings/{finding_id:int}", summary="Show a finding")
async def show_finding(request: AnyRequest, finding_id: FromPath[int]) -> FindingView:
    """With its evidence."""
    return await runtime_of(request).catalog.finding(finding_id)


@post("/findings/{finding_id:int}/accept", summary="Note a finding as true", status_code=200)
async def accept_finding(request: AnyRequest, finding_id: FromPath[int]) -> FindingView:
    """The same again changes nothing."""
    return await runtime_of(request).catalog.close_finding(finding_id, "accept")


@post("/findings/{finding_id:int}/dismiss", summary="Dismiss a finding", status_code=200)
async def dismiss_finding(request: AnyRequest, finding_id: FromPath[int]) -> FindingView:
    """The same again changes nothing."""
    return await runtime_of(request).catalog.close_finding(finding_id, "dismiss")


@post("/findings/{finding_id:int}/remedy", summary="Carry out a finding's remedy", status_code=200)
async def remedy_finding(request: AnyRequest, finding_id: FromPath[int]) -> FindingView:
    """Not by request yet: the reconciler carries out what it can prove."""
    found = await runtime_of(request).catalog.finding(finding_id)
    raise NotPossibleNow(
        f"finding {found.id} ({found.kind}) has no remedy that can be asked for: the reconciliation passes "
        f"repair what they can prove; accept or dismiss what is left"
    )


@get("/ledger/accounts", summary="List accounts with their balances")
async def list_accounts(
    request: AnyRequest,
    kind: FromQuery[str | None] = None,
    owner: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[AccountView]:
    """Accounts by code."""
    return await runtime_of(request).catalog.accounts(kind=kind, owner=owner, cursor=cursor, limit=limit)


@get("/ledger/entries", summary="List entries with their lines")
async def list_entries(
    request: AnyRequest,
    kind: FromQuery[str | None] = None,
    session: FromQuery[UUID | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[EntryView]:
    """Newest first."""
    return await runtime_of(request).catalog.entries(kind=kind, session=session, cursor=cursor, limit=limit)


@get("/overview", summary="Is everything all right now?")
async def overview(request: AnyRequest) -> Overview:
    """Counts, power, money by currency, findings by class, the newest run of each loop."""
    return await runtime_of(request).catalog.overview()


HANDLERS = (
    list_findings,
    show_finding,
    accept_finding,
    dismiss_finding,
    remedy_finding,
    list_accounts,
    list_entries,
    overview,
)
