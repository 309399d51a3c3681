"""`python -m voltledger.checker`: judges a run. Exit status 1 on any difference, 2 when it cannot judge."""

import argparse
import asyncio
import sys
from pathlib import Path

from voltledger.checker.errors import CheckerError
from voltledger.checker.judging import judge
from voltledger.checker.report import as_json, as_text
from voltledger.checker.world import Limits


def main() -> int:
    """Reads the arguments, judges, prints the verdict."""
    parser = argparse.ArgumentParser(prog="python -m voltledger.checker", description=__doc__)
    parser.add_argument("--dsn", required=True, help="PostgreSQL, such as postgresql://user:password@host/name")
    parser.add_argument("--journal", nargs="+", action="extend", type=Path, default=[], help="journals of stations")
    parser.add_argument("--sink", nargs="+", action="extend", type=Path, default=[], help="journals of outside parties")
    parser.add_argument("--redis", help="redis://:password@host:port or unix:///path?password=...")
    parser.add_argument("--limit-s", type=float, default=Limits().unfinished_s, help="how long work may be unfinished")
    parser.add_argument("--ghost-s", type=float, default=Limits().ghost_s, help="how long a ghost may stay open")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    limits = Limits(unfinished_s=arguments.limit_s, ghost_s=arguments.ghost_s)
    try:
        verdict = asyncio.run(judge(arguments.dsn, arguments.journal, arguments.sink, arguments.redis, limits=limits))
    except CheckerError as error:
        print(f"checker: {error}", file=sys.stderr)
        return 2
    print(as_json(verdict) if arguments.json else as_text(verdict))
    return 0 if verdict.clean else 1


if __name__ == "__main__":
    sys.exit(main())
