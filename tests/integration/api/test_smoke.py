from tests.integration.api.conftest import World


async def test_probe(world: World) -> None:
    from decimal import Decimal

    for m, p, kw in [
        ("GET", "/health", {}),
        ("GET", "/ready", {}),
        ("GET", "/metrics", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/docs", {}),
        ("GET", "/openapi.json/x", {}),
        ("GET", "/api/v1/stations", {}),
        ("GET", "/api/v1/stations/CP-1", {}),
        ("GET", "/api/v1/stations/nope", {}),
        ("GET", "/nope", {}),
        ("GET", "/api/v1/stations", {"role": None}),
        ("GET", "/api/v1/stations?limit=0", {}),
        ("GET", "/api/v1/stations?stauts=1", {}),
        ("POST", "/api/v1/stations", {"json": {"id": "CP-2"}}),
        ("POST", "/api/v1/stations", {"json": {"id": "CP-2"}}),
        ("POST", "/api/v1/stations", {"json": {"id": "CP-3", "owner": 1}}),
        ("POST", "/api/v1/stations", {"json": {}}),
        ("POST", "/api/v1/stations", {"json": {"id": 3}}),
        ("POST", "/api/v1/stations", {"content": "{"}),
        ("POST", "/api/v1/stations", {"content": "[]"}),
        ("POST", "/api/v1/stations", {}),
        ("POST", "/api/v1/stations", {"json": {"id": "CP-4", "organization": "none"}}),
        ("POST", "/api/v1/tariffs", {"json": {"price_per_kwh_minor": 2000.5, "currency": "INR"}}),
        ("GET", "/api/v1/tariffs", {}),
        ("POST", "/api/v1/tokens", {"json": {"value": " abC1 ", "user": "anna"}}),
        ("PATCH", "/api/v1/tokens/ABC1", {"json": {"status": "Blocked", "user": None}}),
        ("GET", "/api/v1/tokens", {}),
        (
            "POST",
            "/api/v1/wallets/anna/topups",
            {"json": {"amount_minor": 50000}, "headers": {"Idempotency-Key": "k1"}},
        ),
        (
            "POST",
            "/api/v1/wallets/anna/topups",
            {"json": {"amount_minor": 50000}, "headers": {"Idempotency-Key": "k1"}},
        ),
        (
            "POST",
            "/api/v1/wallets/anna/topups",
            {"json": {"amount_minor": 50001}, "headers": {"Idempotency-Key": "k1"}},
        ),
        ("GET", "/api/v1/wallets/anna", {"role": "driver"}),
        ("GET", "/api/v1/wallets/bela", {"role": "driver"}),
        ("GET", "/api/v1/wallets/anna/transactions", {}),
        (
            "POST",
            "/api/v1/sessions",
            {
                "json": {"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 50000},
                "headers": {"Idempotency-Key": "s1"},
            },
        ),
        (
            "POST",
            "/api/v1/sessions",
            {
                "json": {"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 50000},
                "headers": {"Idempotency-Key": "s1"},
            },
        ),
        ("GET", "/api/v1/sessions?status=PENDING&status=ONGOING", {}),
        ("GET", "/api/v1/sessions?status=PENDING", {}),
        ("GET", "/api/v1/findings", {}),
        ("GET", "/api/v1/ledger/accounts", {}),
        ("GET", "/api/v1/ledger/entries", {}),
        ("GET", "/api/v1/overview", {}),
        ("POST", "/api/v1/stations/CP-1/calls/Reset", {"content": '{ "type" : "So ft", "a":[1.0, 2] }'}),
        ("POST", "/api/v1/stations/CP-1/commands/clear-cache", {}),
        ("GET", "/api/v1/apikeys", {}),
        ("GET", "/api/v1/stations/CP-1/variables?key=a&key=b", {}),
        ("GET", "/api/v1/sessions/zz", {}),
    ]:
        r = await world.ask(m, p, **kw)
        print(m, p, kw, "->", r.status_code, r.text[:420])
    print(world.commands.calls, world.commands.commands)
    print(r.headers)
