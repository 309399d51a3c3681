"""The HTTP application: probes without a key, `/api/v1` with one, its description, and what others add."""

import asyncio
import html
from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Response, Router, get
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler

from voltledger import __version__
from voltledger.api.access import PERMISSIONS, V1, guard
from voltledger.api.problems import HANDLERS, add_headers
from voltledger.api.routes import books, events, people, sessions, stations
from voltledger.api.wire import AnyRequest, ApiResponse, runtime_of
from voltledger.services.runtime import Health, Runtime

MAX_BODY_BYTES = 1 << 20
OPENAPI = "/openapi.json"


def create_app(runtime: Runtime, *, more: Sequence[ControllerRouterHandler] = (), style: str = "") -> Litestar:
    """The application; `more` are handlers that others add, the pages among them, `style` is their style sheet.

    It opens nothing: what it works with is in `runtime`, which is also its `state.runtime`.
    """
    v1 = Router(
        V1,
        route_handlers=[
            *stations.HANDLERS,
            *people.HANDLERS,
            *sessions.HANDLERS,
            *books.HANDLERS,
            *events.HANDLERS,
        ],
        guards=[guard],
        security=[{"bearer": []}],
    )
    return Litestar(
        route_handlers=[v1, health, ready, metrics, docs, *more],
        state=State({"runtime": runtime, "closing": asyncio.Event(), "style": style}, deep_copy=False),
        exception_handlers=HANDLERS,
        before_send=[add_headers],
        response_class=ApiResponse,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=_description(),
        debug=False,
    )


def _description() -> OpenAPIConfig:
    bearer = SecurityScheme(type="http", scheme="bearer", description="a key from `voltledger apikey add`")
    return OpenAPIConfig(
        title="voltledger",
        version=__version__,
        description="An OCPP central system whose books always agree with what the charging stations did.",
        path=OPENAPI,
        render_plugins=[JsonRenderPlugin(path="/")],
        components=Components(security_schemes={"bearer": bearer}),
        use_handler_docstrings=True,
    )


@get("/health", summary="How the server is", tags=["probes"])
async def health(request: AnyRequest) -> Health:
    """200 while the process serves; the members say what is degraded."""
    return runtime_of(request).status.health()


@get("/ready", summary="Whether new work should come here", tags=["probes"])
async def ready(request: AnyRequest) -> Response[Any]:
    """503 when it should not."""
    is_ready = runtime_of(request).status.ready()
    return Response({"ready": is_ready}, status_code=200 if is_ready else 503)


@get("/metrics", summary="Prometheus metrics", tags=["probes"])
async def metrics(request: AnyRequest) -> Response[bytes]:
    """In the text format 0.0.4."""
    return Response(runtime_of(request).status.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


@get("/docs", include_in_schema=False)
async def docs(request: AnyRequest) -> Response[str]:
    """A plain list of the operations by resource: it loads nothing from elsewhere."""
    schema = request.app.openapi_schema.to_schema()
    style: str = request.app.state.style
    link = f'<link rel="stylesheet" href="{html.escape(style)}">' if style else ""
    resources = _by_resource(schema)
    links = ", ".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in resources)
    sections = "".join(_SECTION.format(name=html.escape(name), rows="".join(r)) for name, r in resources.items())
    page = _PAGE.format(version=html.escape(__version__), link=link, links=links, sections=sections)
    return Response(page, media_type="text/html")


def _by_resource(schema: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of the operations by the first part of their path; what is outside `/api/v1` comes last."""
    found: dict[str, list[str]] = {}
    for path, item in sorted(schema["paths"].items(), key=lambda entry: (not entry[0].startswith(V1), entry[0])):
        name = path.removeprefix(V1).split("/")[1] if path.startswith(V1) else "probes"
        found.setdefault(name, []).extend(_row(path, method, operation) for method, operation in item.items())
    return found


def _row(path: str, method: str, operation: dict[str, Any]) -> str:
    roles = ", ".join(sorted(PERMISSIONS.get((method.upper(), path.removeprefix(V1)), {"everyone"})))
    names = ", ".join(p["name"] for p in operation.get("parameters", []) if p["in"] != "path")
    what = html.escape(str(operation.get("description") or ""))
    return (
        f"<tr><td><b>{method.upper()}</b></td><td><code>{html.escape(path)}</code></td>"
        f"<td><b>{html.escape(str(operation.get('summary', '')))}.</b> {what}"
        f"{f' <span class=quiet>Parameters: {html.escape(names)}</span>' if names else ''}</td>"
        f"<td>{html.escape(roles)}</td></tr>"
    )


_SECTION = """<section id="{name}"><h2>{name}</h2><table><thead><tr><th scope="col">Method</th>\
<th scope="col">Path</th><th scope="col">What</th><th scope="col">Roles</th></tr></thead><tbody>
{rows}</tbody></table></section>
"""
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API · voltledger</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">{link}</head><body class="docs">
<header class="top"><p class="brand">voltledger</p><nav><a href="/">Back to the dashboard</a></nav></header>
<main><section><h1>The HTTP API, version {version}</h1>
<p>Send <code>Authorization: Bearer KEY</code>; <code>./voltledger apikey add --role viewer</code> makes a key.
Every field is described in <a href="/openapi.json">/openapi.json</a>.</p>
<p>Resources: {links}</p></section>
{sections}</main></body></html>
"""
