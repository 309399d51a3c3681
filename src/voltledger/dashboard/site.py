"""The page, its login and its files, as handlers that are added to the API's application."""

import asyncio
import contextlib
import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any

import jinja2
from litestar import Litestar, Response, get, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler

from voltledger.api import create_app
from voltledger.api.wire import AnyRequest
from voltledger.dashboard.logins import LIFETIME_S, Sessions
from voltledger.dashboard.view import Picture, Trouble, ago, picture, trouble
from voltledger.domain.errors import NotFound
from voltledger.services.catalog import Overview
from voltledger.services.runtime import Runtime, StoreContention, StoreUnavailable

COOKIE = "voltledger_session"
FRESH_S = 1.0
"""One look at the database serves all viewers for a second, and the sums of the books for five."""
SUMS_FRESH_S = 5.0
LOOK_S = 6.0
"""After so long a look is given up, and what was seen last is shown."""
MOST_STATIONS = 60
MOST_RUNNING = 60
MOST_ENDED = 8
MOST_FINDINGS = 8
HTML = "text/html; charset=utf-8"


def create_site(
    runtime: Runtime, sessions: Sessions, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Litestar:
    """The API's application with the page at `/`."""
    page = _Page(runtime, now)
    return create_app(runtime, more=_handlers(page, sessions), style=page.static_url("voltledger.css"))


class _Page:
    """Looks at everything, at most once a second, and renders it."""

    def __init__(self, runtime: Runtime, now: Callable[[], datetime]) -> None:
        self._runtime = runtime
        self._now = now
        self._lock = asyncio.Lock()
        self._seen: tuple[float, Picture] | None = None
        self._sums: tuple[float, Overview] | None = None
        self._files = _files()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("voltledger.dashboard", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["exact"] = lambda at: at.strftime("%Y-%m-%d %H:%M:%S UTC")
        self._templates.filters["ago"] = ago
        self._templates.globals["static"] = self.static_url

    def file(self, name: str) -> tuple[bytes, str]:
        """A file of the page and its type. Raises: NotFound."""
        if name not in self._files:
            raise NotFound("there is no such file")
        return self._files[name], mimetypes.guess_type(name)[0] or "text/plain"

    def render(self, template: str, **values: object) -> str:
        """A template with values, escaped."""
        return self._templates.get_template(template).render(**values)

    async def look(self) -> Picture | None:
        """Everything there is to show: what was seen last while the database is away, None if that is nothing."""
        async with self._lock:
            clock = asyncio.get_running_loop().time()
            away = self._runtime.status.health().database != "ok"
            if not away and (self._seen is None or clock - self._seen[0] > FRESH_S):
                with contextlib.suppress(StoreUnavailable, StoreContention, TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        self._seen = (clock, await self._picture(clock))
            return None if self._seen is None else self._seen[1]

    def trouble(self) -> Trouble | None:
        """What is not well now, for the top of the page; known without the database."""
        return trouble(self._runtime.status.health())

    async def _picture(self, clock: float) -> Picture:
        catalog = self._runtime.catalog
        if self._sums is None or clock - self._sums[0] > SUMS_FRESH_S:
            self._sums = (clock, await catalog.overview())
        running = await catalog.session_rows(status=("PENDING", "ONGOING", "ORPHANED"), limit=MOST_RUNNING)
        ended = await catalog.session_rows(status=("COMPLETED", "TERMINATED", "GHOST"), limit=MOST_ENDED)
        stations = await catalog.stations(limit=MOST_STATIONS)
        findings = await catalog.findings(limit=MOST_FINDINGS)
        return picture(
            now=self._now(),
            overview=self._sums[1],
            stations=stations.items,
            connected=self._runtime.presence.connected(),
            running=running.items,
            ended=ended.items,
            findings=findings.items,
        )

    def static_url(self, name: str) -> str:
        """Where a file of the page is; another content is another URL."""
        return f"/static/{name}?v={hashlib.sha256(self._files[name]).hexdigest()[:12]}"


def _files() -> Mapping[str, bytes]:
    folder = resources.files("voltledger.dashboard") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _handlers(page: _Page, sessions: Sessions) -> list[ControllerRouterHandler]:
    """The routes: `/`, what it refreshes itself with, login and logout, its files."""

    @get("/", include_in_schema=False)
    async def home(request: AnyRequest) -> Response[str]:
        """The page, or the way to the login."""
        if sessions.actor_of(request.cookies.get(COOKIE)) is None:
            return _go("/login")
        seen = await page.look()
        if seen is None:
            return _html(page.render("away.html", trouble=page.trouble()), status=503)
        return _html(page.render("page.html", picture=seen, trouble=page.trouble()))

    @get("/live", include_in_schema=False)
    async def live(request: AnyRequest) -> Response[str]:
        """What moves on the page."""
        if sessions.actor_of(request.cookies.get(COOKIE)) is None:
            return Response("", status_code=200, media_type=HTML, headers={"HX-Redirect": "/login"})
        seen = await page.look()
        if seen is None:
            return _html(page.render("away.html", trouble=page.trouble()), status=503)
        return _html(page.render("live.html", picture=seen, trouble=page.trouble()))

    @get("/login", include_in_schema=False)
    async def login_form(
        request: AnyRequest, code: Annotated[str | None, QueryParameter(max_length=200)] = None
    ) -> Response[str]:
        """The form; or, with a code that is good, the way in."""
        if code is None:
            return _html(page.render("login.html", problem=""))
        cookie = sessions.login_with_code(code)
        if cookie is None and sessions.actor_of(request.cookies.get(COOKIE)) is not None:
            return _go("/")
        if cookie is None:
            problem = "This link was used already or is older than ten minutes. Use an API key instead."
            return _html(page.render("login.html", problem=problem), status=401)
        # Away from the address with the code at once, so that it stays in no address bar and no history.
        return _with_cookie(_go("/welcome"), request, cookie)

    @get("/welcome", include_in_schema=False)
    async def welcome() -> Response[str]:
        """A page that goes on by itself.

        Not a redirect: a browser that came from elsewhere does not send a SameSite=Strict cookie along one.
        """
        return _html(page.render("welcome.html"))

    @post("/login", include_in_schema=False, status_code=200)
    async def login(request: AnyRequest) -> Response[str]:
        """With an API key."""
        form = await request.form()
        key = form.get("key")
        cookie = await sessions.login_with_key(key) if isinstance(key, str) and key.strip() else None
        if cookie is None:
            problem = "This key is not valid, or not for this page. Make one with: voltledger apikey add"
            return _html(page.render("login.html", problem=problem), status=401)
        return _with_cookie(_go("/"), request, cookie)

    @post("/logout", include_in_schema=False, status_code=200)
    async def logout(request: AnyRequest) -> Response[str]:
        """Ends the login here and in the browser."""
        sessions.logout(request.cookies.get(COOKIE))
        response = _go("/login")
        response.delete_cookie(COOKIE)
        return response

    @get("/static/{name:str}", include_in_schema=False)
    async def static(name: FromPath[str]) -> Response[bytes]:
        """A file of the page; its URL holds its hash, so it may be kept."""
        content, kind = page.file(name)
        return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    return [home, live, login_form, welcome, login, logout, static]


def _html(text: str, *, status: int = 200) -> Response[str]:
    return Response(text, status_code=status, media_type=HTML)


def _go(path: str) -> Response[Any]:
    return Response("", status_code=303, media_type=HTML, headers={"Location": path})


def _with_cookie(response: Response[str], request: AnyRequest, value: str) -> Response[str]:
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, value, httponly=True, samesite="strict", secure=secure, max_age=LIFETIME_S, path="/")
    return response
