"""Named SQL: every query stands in a `.sql` file under `sql/`, with one sentence and a name.

A file holds blocks that begin with `-- name: the_name`; the lines after it up to the next name are
one statement. `SQL["the_name"]` is its text.
"""

from importlib import resources
from typing import Final


def _load() -> dict[str, str]:
    found: dict[str, str] = {}
    folder = resources.files("voltledger.storage.postgres") / "sql"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            _collect(file.read_text(encoding="utf-8"), found)
    return found


def _collect(text: str, found: dict[str, str]) -> None:
    for block in text.split("-- name: ")[1:]:
        name, _, body = block.partition("\n")
        if name.strip() in found:
            raise ValueError(f"two queries are named {name.strip()}")
        found[name.strip()] = body.strip()


SQL: Final[dict[str, str]] = _load()
