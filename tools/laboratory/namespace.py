"""A true black hole: a network namespace with one line to it that can be made to lose everything, silently.

The proxy's black hole keeps the TCP connections of both sides alive; here packets are lost below TCP, as behind a dead
switch: nothing is refused, nothing is acknowledged. It needs root and the `ip` program.
"""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_numbers = itertools.count(1)


class NotPermitted(Exception):
    """Namespaces cannot be made here; the text says why."""


class Namespace:
    """Programs started with `prefix` live at `address`; the host is `host` for them."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.host = f"10.211.{number}.1"
        self.address = f"10.211.{number}.2"
        self.prefix = ("ip", "netns", "exec", name)
        self._outer = f"vlo{os.getpid() % 100_000}n{number}"
        self._inner = f"vli{os.getpid() % 100_000}n{number}"

    async def black_hole(self) -> None:
        """Everything in both directions is lost from now on."""
        await _ip("-n", self.name, "link", "set", self._inner, "down")

    async def heal(self) -> None:
        """The line works again; TCP sends again what was lost."""
        await _ip("-n", self.name, "link", "set", self._inner, "up")

    async def _make(self) -> None:
        await _ip("netns", "add", self.name)
        await _ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self.name)
        await _ip("address", "add", f"{self.host}/30", "dev", self._outer)
        await _ip("-n", self.name, "address", "add", f"{self.address}/30", "dev", self._inner)
        await _ip("link", "set", self._outer, "up")
        for device in ("lo", self._inner):
            await _ip("-n", self.name, "link", "set", device, "up")


@asynccontextmanager
async def namespace() -> AsyncIterator[Namespace]:
    """A namespace with a line to it, until the block ends.

    Effects: a network namespace and a pair of devices; both go with the block.
    Raises: NotPermitted with the true reason where they cannot be made.
    """
    if os.geteuid() != 0:
        raise NotPermitted("only root may make network namespaces")
    if shutil.which("ip") is None:
        raise NotPermitted("the program ip (iproute2) is missing")
    number = os.getpid() % 200 + next(_numbers) % 50
    made = Namespace(f"vl-lab-{os.getpid()}-{number}", number)
    try:
        await made._make()
        yield made
    finally:
        with_devices = await asyncio.create_subprocess_exec(
            "ip", "netns", "delete", made.name, stderr=asyncio.subprocess.DEVNULL
        )
        await with_devices.wait()


async def _ip(*words: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode != 0:
        raise NotPermitted(f"ip {' '.join(words)}: {said.decode(errors='replace').strip()}")
