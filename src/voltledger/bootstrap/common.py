"""What a server and commands without one both need: fresh ids, the clock, policies, addresses."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

import uuid_utils

from voltledger.config import Settings
from voltledger.services.sync import SyncPolicy

PRISMA_PARAMETERS = frozenset({"schema", "connection_limit", "pool_timeout", "pgbouncer", "connect_timeout"})


def new_id() -> UUID:
    """A version 7 UUID: sorts by time of creation."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def new_token() -> str:
    """A token for one remote start: 16 characters, since firmware exists that overruns 20."""
    return "VL" + "".join(secrets.choice("ABCDEFGHJKMNPQRSTVWXYZ23456789") for _ in range(14))


def utc_now() -> datetime:
    """The clock of the shells."""
    return datetime.now(UTC)


def sync_policy(settings: Settings) -> SyncPolicy:
    """The settings of the sync service."""
    return SyncPolicy(
        ghost_grace=timedelta(seconds=settings.ghost_grace_s),
        orphan_grace=timedelta(seconds=settings.orphan_grace_s),
        reactivate_window=timedelta(seconds=settings.reactivate_window_s),
        stop_retries=settings.stop_retries,
        stop_patience=timedelta(seconds=min(60.0, max(5.0, settings.call_timeout_s * 2))),
        answer_s=min(10.0, settings.call_timeout_s),
    )


def journal_of(settings: Settings) -> Path:
    """Where this node keeps facts while PostgreSQL is away."""
    return settings.data / "journal" / "facts.sqlite"


def driver_dsn(url: str) -> str:
    """A database address as the driver takes it: Prisma's own parameters are left out."""
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in PRISMA_PARAMETERS]
    return urlunsplit(parts._replace(query=urlencode(kept)))
