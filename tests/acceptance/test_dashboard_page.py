"""The page in a real browser: the way in, what moves, what a hostile station cannot do, and small screens."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from msgspec.structs import replace
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests import support
from tests.integration.api.conftest import FakePresence, FakeStatus, make_runtime
from tests.integration.api.seeds import busy_day
from voltledger.api import serve_http
from voltledger.dashboard import Sessions, create_site
from voltledger.services.catalog import Catalog
from voltledger.storage.postgres.pool import Database

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
ATTACKS = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "<svg onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "{{ 7*7 }}<b>bold</b>",
    '<div hx-get="/login" hx-trigger="load">',
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@dataclass
class Site:
    """A served page over a filled database."""

    url: str
    sessions: Sessions
    catalog: Catalog
    presence: FakePresence
    status: FakeStatus
    database: Database
    sql: Any


@pytest.fixture
async def site(database_dsn: str) -> AsyncIterator[Site]:
    database = Database(database_dsn, size=4)
    await database.open()
    sql = await asyncpg.connect(database_dsn)
    runtime, fakes = make_runtime(database, database_dsn)
    sessions = Sessions(runtime.catalog)
    port, ready, stop = support.free_port(), asyncio.Event(), asyncio.Event()
    app = create_site(runtime, sessions)
    server = asyncio.create_task(serve_http(app, "127.0.0.1", port, ready, stop))
    await asyncio.wait_for(ready.wait(), 10)
    yield Site(
        url=f"http://127.0.0.1:{port}",
        sessions=sessions,
        catalog=runtime.catalog,
        presence=fakes["presence"],
        status=fakes["status"],
        database=database,
        sql=sql,
    )
    stop.set()
    await asyncio.wait_for(server, 10)
    await sql.close()
    await database.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        await chromium.close()


async def _logged_in(site: Site, context: BrowserContext) -> tuple[Page, list[str]]:
    """The page, and everything that the browser complains about on it."""
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    await page.goto(f"{site.url}/login?code={site.sessions.make_login_code()}")
    await page.wait_for_url(f"{site.url}/")
    return page, complaints


@pytest.mark.browser
@needs_browser
async def test_the_page_shows_sessions_moving_without_a_reload(site: Site, browser: Browser) -> None:
    made = await busy_day(site.catalog, site.database, site.sql, site.presence)
    page, complaints = await _logged_in(site, await browser.new_context())
    line = page.locator(f"#s-{made['running']}")
    await expect(line).to_contain_text("4.310 kWh")
    await page.evaluate("window.mark = 1")
    await site.sql.execute(
        "UPDATE charging_session SET energy_wh = 4400, power_w = 10000 WHERE id = $1", made["running"]
    )
    await expect(line).to_contain_text("4.400 kWh", timeout=8000)
    await expect(line).to_contain_text("10.0 kW")
    assert await page.evaluate("window.mark") == 1
    assert complaints == []


@pytest.mark.browser
@needs_browser
async def test_the_page_tells_the_three_truths_and_the_money_in_words(site: Site, browser: Browser) -> None:
    await busy_day(site.catalog, site.database, site.sql, site.presence)
    page, _ = await _logged_in(site, await browser.new_context())
    await expect(page.locator("#stations")).to_contain_text(
        "Charging when we last heard of it; the station is not connected now."
    )
    await expect(page.locator("#ended")).to_contain_text(
        "Paid 250.00 INR, used 12.345 kWh x 20.00 = 246.90 INR, refunded 3.10 INR; "
        "the organisation gets 222.21 INR, the platform fee is 24.69 INR."
    )
    await expect(page.get_by_role("row", name="Unexplained 0.00 INR")).to_be_visible()
    await expect(page.locator("#findings")).to_contain_text("asked to stop three times")
    await expect(page.locator("#loops")).to_contain_text("database sync")
    await expect(page.locator("h1")).to_contain_text("1 finding waits for an operator; the books balance.")
    await expect(page.locator("#findings")).to_contain_text("./voltledger finding accept ID")


@pytest.mark.browser
@needs_browser
async def test_what_a_station_says_of_itself_is_only_text(site: Site, browser: Browser) -> None:
    made = await busy_day(site.catalog, site.database, site.sql, site.presence)
    for number, attack in enumerate(ATTACKS):
        await site.catalog.add_station(id=f"X{number}")
        await site.sql.execute(
            "UPDATE station SET vendor = $2, model = $2, firmware = $2, serial = $2 WHERE id = $1", f"X{number}", attack
        )
        await site.sql.execute(
            "INSERT INTO connector (station_id, evse_id, connector_id, status, error_code, info, received_at, since)"
            " VALUES ($1, 1, 1, $2, $2, $2, now(), now())",
            f"X{number}",
            attack,
        )
        await site.sql.execute(
            "INSERT INTO finding (kind, key, state, station_id, summary) VALUES ($1, $2, 'open', $1, $1)",
            attack,
            str(number),
        )
    await site.sql.execute(
        "UPDATE charging_session SET stop_reason = $2, token = $2 WHERE id = $1", made["done"], ATTACKS[0]
    )
    await site.sql.execute("UPDATE driver SET name = $1", ATTACKS[1])
    await site.catalog.add_user(name="X", id="<img src=x onerror=window.hacked=1>", currency="INR")
    await site.sql.execute(
        "UPDATE charging_session SET driver_id = '<img src=x onerror=window.hacked=1>' WHERE id = $1", made["over"]
    )
    page, complaints = await _logged_in(site, await browser.new_context())
    await page.wait_for_timeout(4500)  # two refreshes, since a morph puts text in another way than the first page
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("main script, main img, main svg, main b:text-is('bold')").count() == 0
    assert await page.locator("main [hx-get]").count() == 0
    await expect(page.locator("#stations")).to_contain_text("<script>window.hacked=1</script>")
    assert complaints == []


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_no_screen_scrolls_sideways(site: Site, browser: Browser, width: int, scheme: Any) -> None:
    await busy_day(site.catalog, site.database, site.sql, site.presence)
    await site.catalog.add_station(id="A-very-long-name-without-any-blank-0123456789")
    context = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, _ = await _logged_in(site, context)
    assert await page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [390, 1000, 1280])
async def test_no_word_of_the_last_passes_is_broken(site: Site, browser: Browser, width: int) -> None:
    await busy_day(site.catalog, site.database, site.sql, site.presence)
    await site.sql.execute(
        "UPDATE job_run SET outcome = '25 connected, 3 changed, 0 cache entries mended, and what else there is to say'"
    )
    page, _ = await _logged_in(site, await browser.new_context(viewport={"width": width, "height": 800}))
    broken = await page.evaluate(
        """() => {
            const broken = [];
            for (const cell of document.querySelectorAll('#loops th, #loops td, #money th')) {
                const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
                for (let node = walker.nextNode(); node; node = walker.nextNode()) {
                    for (const found of node.data.matchAll(/\\S+/g)) {
                        const range = document.createRange();
                        range.setStart(node, found.index);
                        range.setEnd(node, found.index + found[0].length);
                        const lines = new Set([...range.getClientRects()].map(r => Math.round(r.top)));
                        if (lines.size > 1) broken.push(found[0]);
                    }
                }
            }
            return broken;
        }"""
    )
    assert broken == []


@pytest.mark.browser
@needs_browser
async def test_the_list_of_operations_is_dressed_and_leads_back(site: Site, browser: Browser) -> None:
    page, complaints = await _logged_in(site, await browser.new_context())
    await page.get_by_role("link", name="API").click()
    await expect(page).to_have_title("API · voltledger")
    assert await page.evaluate("getComputedStyle(document.querySelector('section')).borderRadius") == "8px"
    await page.get_by_role("link", name="Back to the dashboard").click()
    await page.wait_for_url(f"{site.url}/")
    assert complaints == []


@pytest.mark.browser
@needs_browser
async def test_the_page_says_so_when_the_server_is_gone(site: Site, browser: Browser) -> None:
    page, _ = await _logged_in(site, await browser.new_context())
    await expect(page.locator("#paused")).to_be_hidden()
    await page.route("**/live", lambda route: route.abort())
    await expect(page.locator("#paused")).to_be_visible(timeout=8000)
    await page.unroute("**/live")
    await expect(page.locator("#paused")).to_be_hidden(timeout=8000)


@pytest.mark.browser
@needs_browser
async def test_the_login_works_by_keyboard_and_the_logout_ends_it(site: Site, browser: Browser) -> None:
    key = (await site.catalog.add_key(role="viewer")).key
    page = await (await browser.new_context()).new_page()
    await page.goto(site.url)
    await page.wait_for_url("**/login")
    await page.keyboard.type("wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("not valid")
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{site.url}/")
    await expect(page.locator("#stations")).to_contain_text("No stations yet")
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login")
    await page.goto(site.url)
    await page.wait_for_url("**/login")


async def test_without_a_login_there_is_only_the_login(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url) as client:
        home = await client.get("/")
        assert (home.status_code, home.headers["location"]) == (303, "/login")
        live = await client.get("/live", headers={"Cookie": "voltledger_session=guess"})
        assert (live.text, live.headers["hx-redirect"]) == ("", "/login")
        assert (await client.get("/login?code=guess")).status_code == 401
        assert (await client.post("/login", data={"key": "guess"})).status_code == 401
        assert (await client.post("/login")).status_code == 401
        assert (await client.get("/static/..%2Fsite.py")).status_code == 404
        assert (await client.get("/static/site.py")).status_code == 404


async def test_a_login_code_is_good_once_and_its_cookie_is_closed_to_scripts(site: Site) -> None:
    code = site.sessions.make_login_code()
    async with httpx.AsyncClient(base_url=site.url) as client:
        first = await client.get(f"/login?code={code}")
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        # The address with the code is left at once, for a page that asks for no cookie and goes on by itself.
        assert (first.status_code, first.headers["location"], first.text) == (303, "/welcome", "")
        welcome = await client.get("/welcome", headers={"Cookie": ""})
        assert 'content="0; url=/"' in welcome.text
        assert (await client.get("/")).status_code == 200
        again = await client.get(f"/login?code={code}")
        assert (again.status_code, again.headers["location"]) == (303, "/"), "the link again, in the same browser"
    async with httpx.AsyncClient(base_url=site.url) as stranger:
        assert (await stranger.get(f"/login?code={code}")).status_code == 401


async def test_a_driver_s_key_does_not_open_the_page(site: Site) -> None:
    await site.catalog.add_user(name="Anna", id="anna")
    key = (await site.catalog.add_key(role="driver", user="anna")).key
    async with httpx.AsyncClient(base_url=site.url) as client:
        assert (await client.post("/login", data={"key": key})).status_code == 401


async def test_a_page_that_was_seen_stays_up_while_the_database_is_away_and_says_degraded(site: Site) -> None:
    """An operator at night sees that charging goes on, how much waits, and how old the rest of the page is."""
    await busy_day(site.catalog, site.database, site.sql, site.presence)
    async with httpx.AsyncClient(base_url=site.url) as client:
        await client.get(f"/login?code={site.sessions.make_login_code()}")
        assert "degraded" not in (await client.get("/")).text
        away = replace(site.status.now, status="degraded", database="down", journal=688, stations_connected=25)
        site.status.now = away
        await site.database.close()
        for path in ("/", "/live"):
            answer = await client.get(path)
            assert answer.status_code == 200
            for words in ("degraded", "25 connected stations", "688 facts wait", "What you see below is as of", "kWh"):
                assert words in answer.text, (path, words)
        site.status.now = replace(away, database="ok", journal=3)
        await site.database.open()
        answer = await client.get("/live")
        assert "3 facts wait in this node&#39;s journal and are recorded now." in answer.text
        assert "What you see below" not in answer.text


async def test_the_page_says_so_when_the_database_is_away(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url) as client:
        await client.get(f"/login?code={site.sessions.make_login_code()}")
        await site.database.close()
        site.database._dsn = "postgresql://nobody@127.0.0.1:1/none"
        await site.database.open()
        home = await client.get("/")
        assert (home.status_code, "database is not available" in home.text) == (503, True)
        assert (await client.get("/live")).status_code == 503


def test_vendored_files_are_what_their_hashes_say() -> None:
    import hashlib

    import voltledger.dashboard

    folder = Path(voltledger.dashboard.__file__).parent / "static"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert name in (folder / "LICENSES.txt").read_text()
