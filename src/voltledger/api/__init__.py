"""The HTTP API: `create_app` makes the application, `serve_http` serves it."""

from voltledger.api.app import create_app
from voltledger.api.serve import serve_http

__all__ = ["create_app", "serve_http"]
