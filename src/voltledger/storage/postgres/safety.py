"""Settings of a PostgreSQL server under which an answered fact could be lost, or the books changed."""

from typing import Any

from voltledger.storage.postgres.pool import Connection

SAFE = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
}
"""Settings and the values under which a commit is on the disk when it is acknowledged."""


async def unsafe(connection: Connection) -> list[str]:
    """What is unsafe about a server and the role that works on it, each with its remedy; empty when nothing is.

    `connection` must be in the role that the server works in.
    """
    found = []
    for name, safe in SAFE.items():
        value = await connection.fetchval(f"SHOW {name}")
        if value not in safe:
            found.append(f"{name} is {value}: set it to {safe[0]} in postgresql.conf and reload PostgreSQL")
    role: Any = await connection.fetchrow(
        "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )
    if role["rolsuper"] or role["rolbypassrls"]:
        what = "a superuser" if role["rolsuper"] else "allowed to bypass row security"
        found.append(
            f"the server would work as {role['rolname']}, who is {what}: let the user of DATABASE_URL create roles "
            "and migrate again, or name a plain user there"
        )
    return found
