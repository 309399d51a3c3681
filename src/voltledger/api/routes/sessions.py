"""Charging sessions: prepaid starts, stops, readings, and why the amounts are what they are."""

from typing import Annotated
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from voltledger.api.idempotency import key_of, once
from voltledger.api.inputs import NewSession
from voltledger.api.problems import NotConnected
from voltledger.api.wire import AnyRequest, own_user, runtime_of
from voltledger.domain.errors import NotFound
from voltledger.services.catalog import Page, ReadingRow, Session, SessionStory
from voltledger.services.runtime import CallOutcome

Limit = Annotated[int, QueryParameter(ge=1, le=500)]


@get("/sessions", summary="List sessions")
async def list_sessions(
    request: AnyRequest,
    status: FromQuery[list[str] | None] = None,
    station: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[Session]:
    """Newest first; `status` may be given several times."""
    return await runtime_of(request).catalog.sessions(
        status=status, station=station, user=own_user(request) or user, cursor=cursor, limit=limit
    )


@post("/sessions", summary="Start a prepaid session")
async def start_session(request: AnyRequest, data: JSONBody[NewSession]) -> Response[Session]:
    """Sets the amount aside and asks the station to start; what is not used goes back."""
    runtime = runtime_of(request)
    own = own_user(request)
    if own is not None and own != data.user:
        raise NotFound(f"there is no user {data.user}")

    async def effect() -> Session:
        session_id = await runtime.prepaid.start(
            station_id=data.station,
            connector=data.connector,
            user_id=data.user,
            amount_minor=data.amount_minor,
            token=data.token,
            key=key_of(request),
        )
        return await runtime.catalog.session(session_id)

    return await once(request, effect, status=201)


@get("/sessions/{session_id:uuid}", summary="Show a session")
async def show_session(request: AnyRequest, session_id: FromPath[UUID]) -> Session:
    """Settled amounts once it is settled; until then what they would be now."""
    return await runtime_of(request).catalog.session(session_id, user=own_user(request))


@get("/sessions/{session_id:uuid}/readings", summary="What the meter said")
async def list_readings(
    request: AnyRequest, session_id: FromPath[UUID], cursor: FromQuery[str | None] = None, limit: Limit = 200
) -> Page[ReadingRow]:
    """In order of time."""
    return await runtime_of(request).catalog.readings(session_id, user=own_user(request), cursor=cursor, limit=limit)


@get("/sessions/{session_id:uuid}/explain", summary="Why a session's amounts are what they are")
async def explain_session(request: AnyRequest, session_id: FromPath[UUID]) -> SessionStory:
    """The sentence, the settlements, the postings, the findings and the commands behind it."""
    return await runtime_of(request).catalog.explain(session_id, user=own_user(request))


@post("/sessions/{session_id:uuid}/stop", summary="Ask the station to end a session", status_code=200)
async def stop_session(request: AnyRequest, session_id: FromPath[UUID]) -> Response[CallOutcome]:
    """The outcome is what the station answered; the session ends when the station reports its end."""
    runtime = runtime_of(request)
    session = await runtime.catalog.session(session_id, user=own_user(request))

    async def effect() -> CallOutcome:
        outcome = await runtime.prepaid.stop(session_id)
        if outcome.outcome == "not_connected":
            raise NotConnected(session.station, outcome)
        return outcome

    return await once(request, effect, status=200)


HANDLERS = (list_sessions, start_session, show_session, list_readings, explain_session, stop_session)
