"""`voltledger verify`: the books rebuilt from the raw frames by code that shares nothing with the server."""

import asyncio
import sys
from uuid import UUID

from voltledger.checker import CheckerError, Verdict, as_json, as_text
from voltledger.checker import verify as rebuild
from voltledger.cli.manage import Json, settings_here
from voltledger.cli.output import out
from voltledger.cli.servers import command_database
from voltledger.errors import UserFacingError


def verify(*, session: str | None = None, json: Json = False) -> None:
    """Rebuilds sessions, energy, settlements and balances from the raw frames and lists every difference.

    Also while the server runs. Changes nothing. Ends with 1 if anything differs.

    Example: voltledger verify --session 01890a5d-ac96-774b-bcce-b302099a8057
    """
    session_id = None if session is None else _session_id(session)
    with command_database(settings_here()) as dsn:
        try:
            verdict = asyncio.run(_verify(dsn, session_id))
        except CheckerError as error:
            raise UserFacingError(str(error)) from error
    if json:
        print(as_json(verdict), flush=True)
    else:
        out.print(as_text(verdict))
    if not verdict.clean:
        sys.exit(1)


async def _verify(dsn: str, session_id: UUID | None) -> Verdict:
    try:
        return await rebuild(dsn, session=session_id, progress=_progress if sys.stderr.isatty() else None)
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _progress(count: int) -> None:
    print(f"\r{count} frames read", end="", file=sys.stderr, flush=True)


def _session_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UserFacingError(f"{text!r} is no session id: voltledger session list shows them") from None
