"""Starts servers quickly: a process that has the libraries loaded already forks one `voltledger` for each order.

Loading the libraries takes most of a server's start. For a server with FAILPOINTS only what is not ours is loaded
here, since our own code looks at that once, when it is loaded. `--warm` has loaded all of it, for servers without
FAILPOINTS. Everything else a server does itself, with its own environment, from `main` on.

Orders come on standard input, a JSON object a line (`words`, `env`, `folder`, `output`); the answer is the process id.
When standard input ends, the launcher and its servers end.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
OURS = ("voltledger.cli.app", "voltledger.dashboard.site")


def foreign_modules() -> list[str]:
    """The modules that the program loads and that are not ours, found out by a child that loads it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for name in OURS:
            importlib.import_module(name)
        names = [name for name in sys.modules if name.partition(".")[0] not in ("voltledger", "tools", "__main__")]
        with os.fdopen(writing, "w") as pipe:
            json.dump(names, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        names = json.load(pipe)
    os.waitpid(child, 0)
    return [str(name) for name in names]


def main() -> None:
    """Loads, says `ready`, and obeys until standard input ends."""
    for name in foreign_modules():
        # Some names are aliases that only exist once their package is loaded.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "--warm" in sys.argv[1:]:
        for name in OURS:
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become_server(order)
        print(child, flush=True)


def _become_server(order: dict[str, Any]) -> None:
    """The child: nothing of the launcher is left but the loaded libraries."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["folder"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.argv = ["voltledger", *order["words"]]
        importlib.import_module("voltledger.cli.app").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
