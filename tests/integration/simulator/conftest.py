"""What the simulator's integration tests share."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.simulator.scripted_server import ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()
