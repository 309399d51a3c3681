"""What the simulator's integration tests share."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.simulator.scripted_server import ScriptedServer

# Says that no loop is current. Otherwise pytest-asyncio asks for one, Python 3.11 makes it, nobody closes it,
# and whichever test runs when it is collected fails with a ResourceWarning.
asyncio.set_event_loop(None)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()
