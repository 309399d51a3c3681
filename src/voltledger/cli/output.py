"""What a command prints: one JSON object for machines, a sentence or a table for people."""

import json as stdlib_json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

out = Console(soft_wrap=True, highlight=False, markup=False)


def emit(value: Any, *, json: bool, text: str) -> None:
    """Prints `value` as one line of JSON, or `text` for people."""
    if json:
        print(msgspec.json.encode(value, enc_hook=str).decode(), flush=True)
    else:
        out.print(text)


def emit_rows(rows: Sequence[Any], columns: Mapping[str, str], *, json: bool, empty: str) -> None:
    """Prints rows as JSON Lines, or as a table with the columns wanted (member -> heading)."""
    if json:
        for row in rows:
            print(msgspec.json.encode(row, enc_hook=str).decode())
        return
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading)
    for row in rows:
        plain = stdlib_json.loads(msgspec.json.encode(row, enc_hook=str))
        table.add_row(*("" if plain.get(name) is None else str(plain[name]) for name in columns))
    out.print(table)
