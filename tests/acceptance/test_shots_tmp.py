import asyncio, sys
from datetime import UTC, datetime
import asyncpg
from playwright.async_api import async_playwright
from tests.integration.api.conftest import make_runtime
from tests.integration.api.seeds import busy_day
from tests import support
from voltledger.dashboard import Sessions, create_site
from voltledger.api import serve_http
from voltledger.storage.postgres.pool import Database

async def test_shots(database_dsn):
    database = Database(database_dsn, size=4); await database.open()
    sql = await asyncpg.connect(database_dsn)
    runtime, fakes = make_runtime(database, database_dsn)
    await busy_day(runtime.catalog, database, sql, fakes["presence"])
    sessions = Sessions(runtime.catalog)
    app = create_site(runtime, sessions)
    ready, stop = asyncio.Event(), asyncio.Event()
    port = support.free_port()
    server = asyncio.create_task(serve_http(app, "127.0.0.1", port, ready, stop))
    await asyncio.wait_for(ready.wait(), 10)
    async with async_playwright() as p:
        b = await p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-background-networking"])
        for scheme in ("light", "dark"):
            for w in (1280, 390):
                c = await b.new_context(viewport={"width": w, "height": 900}, color_scheme=scheme)
                page = await c.new_page()
                page.on("console", lambda m: print("CONSOLE", m.type, m.text))
                page.on("pageerror", lambda m: print("ERR", m))
                await page.goto(f"http://127.0.0.1:{port}/")
                print(page.url)
                if scheme == "light" : await page.screenshot(path=f"/tmp/shot-login-{w}.png")
                await page.goto(f"http://127.0.0.1:{port}/login?code={sessions.make_login_code()}")
                await page.wait_for_url(f"http://127.0.0.1:{port}/")
                await page.wait_for_timeout(2600)
                await page.screenshot(path=f"/tmp/shot-{scheme}-{w}.png", full_page=True)
                print(w, await page.evaluate("document.documentElement.scrollWidth"))
        await b.close()
    stop.set(); await server
    await sql.close(); await database.close()
