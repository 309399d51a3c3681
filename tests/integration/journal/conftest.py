"""A node's storage with a journal and an outage ladder, on a real PostgreSQL and a real disk."""

from __future__ import annotations

from tests.integration.storage.conftest import other_node, sql, storage

__all__ = ["other_node", "sql", "storage"]
