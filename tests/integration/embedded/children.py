"""Programs that the tests of the embedded servers run as processes of their own.

    python children.py postgres|redis|both DATA_FOLDER

starts the servers, prints one JSON line about them and waits for the end of its standard input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from voltledger.embedded import start_postgres, start_redis
from voltledger.errors import UserFacingError


def main() -> int:
    which, folder = sys.argv[1], Path(sys.argv[2])
    postgres_bin = os.environ.get("VOLTLEDGER_TEST_POSTGRES_BIN")
    facts: dict[str, object] = {"uid": os.getuid()}
    try:
        if which in ("postgres", "both"):
            bin_dir = Path(postgres_bin) if postgres_bin else None
            postgres = start_postgres(folder, bin_dir=bin_dir)
            facts |= {"postgres": postgres.pid, "dsn": postgres.dsn, "sockets": str(postgres.socket_folder)}
        if which in ("redis", "both"):
            redis = start_redis(folder, server=os.environ.get("VOLTLEDGER_TEST_REDIS_SERVER") or None)
            facts |= {"redis": redis.pid}
    except UserFacingError as problem:
        print(json.dumps({"error": type(problem).__name__, "text": str(problem)}), flush=True)
        return problem.exit_status
    print(json.dumps(facts), flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
