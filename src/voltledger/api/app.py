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


def create_app(runtime: Runtime, *, more: Sequence[ControllerRouterHandler] = ()) -> Litestar:
    """The application; `more` are handlers that others add, the pages among them.

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
        state=State({"runtime": runtime, "closing": asyncio.Event()}, deep_copy=False),
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
    """A plain list of the operations: it loads nothing from anywhere."""
    schema = request.app.openapi_schema.to_schema()
    rows = "".join(_operations(schema))
    return Response(_PAGE.format(version=html.escape(__version__), rows=rows), media_type="text/html")


def _operations(schema: dict[str, Any]) -> Sequence[str]:
    lines = []
    for path, item in sorted(schema["paths"].items()):
        for method, operation in item.items():
            roles = ", ".join(sorted(PERMISSIONS.get((method.upper(), path.removeprefix(V1)), {"everyone"})))
            names = ", ".join(p["name"] for p in operation.get("parameters", []) if p["in"] != "path")
            cells = (
                method.upper(),
                path,
                operation.get("summary", ""),
                operation.get("description", ""),
                names,
                roles,
            )
            lines.append("<tr>" + "".join(f"<td>{html.escape(str(c or ''))}</td>" for c in cells) + "</tr>")
    return lines


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>voltledger API</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>voltledger API {version}</h1>
<p>Send <code>Authorization: Bearer KEY</code>.
The whole description: <a href="/openapi.json">/openapi.json</a>.</p>
<table><thead><tr><th>Method<th>Path<th>What<th>More<th>Parameters<th>Roles</tr></thead><tbody>{rows}</tbody></table></html>
"""
