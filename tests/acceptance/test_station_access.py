"""A station that may not connect any more."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

from tests import support
from tests.acceptance.world import Site


@pytest.mark.parametrize("way", ["api", "command line"])
async def test_a_station_that_is_disabled_loses_its_connection_and_gets_no_other(site: Site, way: str) -> None:
    async with site.online() as station:
        if way == "api":
            answer = await site.api.patch(f"stations/{site.id}", json={"disabled": True})
            assert (answer.status_code, answer.json()["connected"]) == (200, False)
        else:
            site.server.cli("station", "disable", site.id)
        await support.wait_until(lambda: station.socket.close_code is not None, 20, what="the end of the connection")
        assert station.socket.close_code == 1008
    with pytest.raises(InvalidStatus):
        async with site.online():
            pass
    assert (await site.api.patch(f"stations/{site.id}", json={"disabled": False})).status_code == 200
    async with site.online():
        assert (await site.api.get(f"stations/{site.id}")).json()["connected"]
