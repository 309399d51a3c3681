"""Getting a database ready: migrated, in a role that its rules bind, and safe to answer from."""

from collections.abc import Sequence

import asyncpg

from voltledger.errors import UserFacingError
from voltledger.logs import get_logger, log_success
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.postgres.migrate import migrate
from voltledger.storage.postgres.pool import APP_ROLE, AWAY, can_take_role, describe
from voltledger.storage.postgres.safety import unsafe

log = get_logger(__name__)


async def migrate_database(dsn: str) -> Sequence[str]:
    """Migrates; the versions applied.

    Raises: UserFacingError for an address that cannot work, StoreUnavailable while the server is away.
    """
    try:
        return await migrate(dsn)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise UserFacingError(
            f"PostgreSQL refuses the user of DATABASE_URL ({error}): correct user or password"
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise UserFacingError(
            f"DATABASE_URL names a database that does not exist ({error}): create it first"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise UserFacingError(
            f"the user of DATABASE_URL may not create tables ({error}): grant it CREATE on the schema"
        ) from error
    except ValueError as error:
        raise UserFacingError(
            f"DATABASE_URL is not usable ({error}): postgresql://user:password@host:5432/name"
        ) from error
    except AWAY as error:
        raise StoreUnavailable(describe(error)) from error


async def prepare_database(dsn: str) -> str | None:
    """Migrates and returns the role to work in.

    Raises: UserFacingError for an address that cannot work, StoreUnavailable while the server is away.
    """
    applied = await migrate_database(dsn)
    if applied:
        log_success(log, "database migrated", versions=list(applied))
    role = APP_ROLE if await can_take_role(dsn) else None
    problems = await unsafe_settings(dsn, role)
    if problems:
        raise UserFacingError(
            "PostgreSQL would lose answered facts or let the books be changed: " + "; ".join(problems)
        )
    return role


async def unsafe_settings(dsn: str, role: str | None) -> Sequence[str]:
    """What makes a database unfit for the books, each with its remedy. Raises: StoreUnavailable."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5, server_settings={} if role is None else {"role": role})
        try:
            return await unsafe(connection)
        finally:
            await connection.close()
    except AWAY as error:
        raise StoreUnavailable(describe(error)) from error
