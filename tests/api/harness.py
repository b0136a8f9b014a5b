"""A real server, and a caller that holds every answer against the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ledger.api.app import DOCUMENT, ROUTES
from ledger.api.context import CONTEXT, Context
from ledger.api.server import Server
from ledger.config import Config
from ledger.engine import Engine
from ledger.proof import signing
from ledger.proof.publisher import Publisher
from ledger.storage.memory import MemoryStore
from tests.api import schema

OPENAPI: dict[str, Any] = json.loads(DOCUMENT)
COMPONENTS: dict[str, Any] = OPENAPI["components"]["schemas"]
SEEN: set[tuple[str, str]] = set()
"""(operation, status) of every answer of the session."""


@dataclass
class Answer:
    """An answer that the document allows."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.raw.splitlines() if line]

    @property
    def results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json["results"]
        return found

    @property
    def statuses(self) -> list[str]:
        return [result["status"] for result in self.results]

    @property
    def code(self) -> str:
        return str(self.json["code"])


def operation_of(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The route's name and its operation in the document, or None where there is none."""
    path = path.partition("?")[0]
    for route in ROUTES:
        wanted, given = route.path.split("/"), path.split("/")
        if wanted[-1] == "{path}" and len(given) > len(wanted):
            given[len(wanted) - 1 :] = ["{path}"]
        if route.method != method or len(wanted) != len(given):
            continue
        if all(w == g or w in ("{id}", "{path}") for w, g in zip(wanted, given, strict=True)):
            return route.name, OPENAPI["paths"][route.path][method.lower()]
    return None


def check(method: str, path: str, body: Any, answer: Answer) -> None:
    """Fail unless the document declares this answer."""
    found = operation_of(method, path)
    assert answer.headers["X-Request-Id"]
    if found is None:
        assert answer.status in (404, 405)
        assert schema.faults(answer.json, COMPONENTS["Problem"], COMPONENTS) == []
        return
    name, operation = found
    status = str(answer.status)
    SEEN.add((name, status))
    declared = operation["responses"].get(status) or operation["responses"]["default"]
    media_type = answer.headers["Content-Type"].partition(";")[0]
    assert media_type in declared["content"], (name, status, media_type)
    wanted = declared["content"][media_type]["schema"]
    if media_type == "application/x-ndjson":
        for line in answer.lines:
            assert schema.faults(line, wanted, COMPONENTS) == []
    elif media_type.endswith("json"):
        assert schema.faults(answer.json, wanted, COMPONENTS) == [], answer.raw[:2000]
    if media_type == "application/problem+json":
        assert answer.json["status"] == answer.status
        assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    for header in declared["headers"]:
        if header != "Ledger-Position" or answer.status == 200:
            assert header in answer.headers, (name, status, header)
    if answer.status == 200 and body is not None and "requestBody" in operation:
        asked = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema.faults(body, asked, COMPONENTS) == []


class Service:
    """A server and a client of it. ``call`` asks and checks."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.engine = server.engine
        self.session = session
        self.context: Context = server.app[CONTEXT]

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        **parameters: Any,
    ) -> Answer:
        """Send a JSON body (or raw bytes) and return the answer, checked."""
        sent = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method,
            self.server.url + path,
            data=raw,
            headers=sent,
            params=parameters,
            skip_auto_headers=["Content-Type"],
        ) as response:
            answer = Answer(response.status, dict(response.headers), await response.read())
            answer.headers["X-Request-Id"] = response.headers.get("X-Request-Id", "")
        check(method, path, body, answer)
        return answer

    async def get(self, path: str, **parameters: Any) -> Answer:
        return await self.call("GET", path, **parameters)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("POST", path, body, **more)

    async def created(self, path: str, body: Any, **more: Any) -> Answer:
        """Post events that must all be created."""
        answer = await self.post(path, body, **more)
        assert answer.status == 200, answer.raw
        assert set(answer.statuses) == {"created"}, answer.results
        return answer

    async def bank(self) -> None:
        """A cash account 1, a customer 2 that cannot overdraw, a customer 3, in ledger 156 CNY."""
        await self.created(
            "/v1/definitions",
            [
                {
                    "id": "1",
                    "kind": "ledger",
                    "ledger": 156,
                    "exponent": 2,
                    "metadata": {"currency": "CNY", "name": "人民币"},
                },
                {
                    "id": "2",
                    "kind": "code",
                    "code": 20,
                    "flags": ["normal_side_credit"],
                    "metadata": {"name": "Deposits"},
                },
            ],
        )
        await self.created(
            "/v1/accounts",
            [
                {"id": "1", "ledger": 156, "code": 10},
                {
                    "id": "2",
                    "ledger": 156,
                    "code": 20,
                    "flags": ["debits_must_not_exceed_credits"],
                    "user_data_64": "77",
                },
                {"id": "3", "ledger": 156, "code": 20, "metadata": {"name": "王芳"}},
            ],
        )
        await self.published()

    async def published(self, block: int = 0) -> None:
        """Wait until a block is under the published checkpoint."""
        publisher = self.context.publisher
        assert publisher is not None
        assert await asyncio.to_thread(publisher.wait_published, block, 10.0)

    async def transfer(
        self, transfer_id: int, debit: int, credit: int, amount: int, **more: Any
    ) -> Answer:
        """Post one transfer in ledger 156."""
        event = {
            "id": str(transfer_id),
            "debit_account_id": str(debit),
            "credit_account_id": str(credit),
            "amount": str(amount),
            "ledger": 156,
            "code": 1,
            **more,
        }
        return await self.post("/v1/transfers", event)


@asynccontextmanager
async def running(
    *, start_engine: bool = True, engine: Engine | None = None, **options: Any
) -> AsyncIterator[Service]:
    """A server over a new engine in memory (or a given one), and its outer log in a folder of its
    own; stopped at the end."""
    config = options.pop("config", None) or Config()
    engine = engine or Engine(MemoryStore(config), config)
    folder = tempfile.TemporaryDirectory(prefix="sanyuan-api-")
    publisher = publisher_of(engine, Path(folder.name))
    server = Server(engine, config, port=0, **{"publisher": publisher, **options})
    await server.start()
    try:
        if start_engine:
            await server.start_engine()
            publisher.start()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            yield Service(server, session)
    finally:
        await server.stop()
        engine.stop()
        publisher.stop()
        folder.cleanup()


def publisher_of(engine: Engine, directory: Path) -> Publisher:
    """The publisher of an engine's log, with a new key; not started."""
    key = directory / signing.DEFAULT_NAME
    signing.create_key(key, name="bank.example/ledger", passphrase=None)
    publisher = Publisher(
        directory / "log", instance=engine.store.instance, journal=engine.reader, key=key
    )
    engine.on_sealed.append(publisher.sealed)
    engine.warnings.append(publisher.warnings)
    return publisher


OLD_CHECKPOINT = (
    "bank.example/ledger\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n"
    f"\u2014 bank.example/ledger {'A' * 88}AAA=\n"
)
"""An empty log's; the server leaves it to the verifier to look at the signature."""
EXAMPLES: dict[str, tuple[str, str, Any]] = {
    "create_accounts": ("POST", "/v1/accounts", {"id": "90", "ledger": 156, "code": 10}),
    "create_transfers": (
        "POST",
        "/v1/transfers",
        {
            "id": "90",
            "debit_account_id": "1",
            "credit_account_id": "2",
            "amount": "5",
            "ledger": 156,
            "code": 1,
        },
    ),
    "change_settings": ("POST", "/v1/account-settings", {"id": "90", "account_id": "3"}),
    "define": ("POST", "/v1/definitions", {"id": "91", "kind": "code", "code": 10}),
    "move_business_date": ("POST", "/v1/business-date", {"id": "92", "date": "2026-03-31"}),
    "lookup_accounts": ("POST", "/v1/accounts/lookup", ["1"]),
    "lookup_transfers": ("POST", "/v1/transfers/lookup", ["90"]),
    "query": ("POST", "/v1/query", {"type": "accounts"}),
    "get_account": ("GET", "/v1/accounts/1", None),
    "get_statement": ("GET", "/v1/accounts/1/transfers", None),
    "get_balance": ("GET", "/v1/accounts/1/balance", None),
    "get_transfer": ("GET", "/v1/transfers/90", None),
    "get_trial_balance": ("GET", "/v1/trial-balance", None),
    "follow_events": ("GET", "/v1/events", None),
    "make_state_root": ("POST", "/v1/state-roots", None),
    "list_state_roots": ("GET", "/v1/state-roots", None),
    "prove_transfer": ("GET", "/v1/transfers/90/proof", None),
    "prove_account": ("GET", "/v1/accounts/1/proof", None),
    "prove_statement": ("GET", "/v1/accounts/1/statement-proof", None),
    "prove_trial_balance": ("GET", "/v1/trial-balance/proof", None),
    "prove_consistency": ("GET", "/v1/consistency-proof?from=0", None),
    "prove_consistency_with": ("POST", "/v1/consistency-proof", {"checkpoint": OLD_CHECKPOINT}),
    "sample_entries": ("GET", "/v1/audit/sample?count=1&seed=x", None),
    "export_package": ("GET", "/v1/audit/export?account=1", None),
    "get_checkpoint": ("GET", "/checkpoint", None),
    "get_tile": ("GET", "/tile/0/000.p/1", None),
    "live": ("GET", "/livez", None),
    "ready": ("GET", "/readyz", None),
    "metrics": ("GET", "/metrics", None),
    "openapi": ("GET", "/openapi.json", None),
}
"""For each route a request that succeeds in a bank with transfer 90."""
assert list(EXAMPLES) == [route.name for route in ROUTES]
WRITES = [route.name for route in ROUTES if route.position]


def routes_with(status: int) -> list[str]:
    """Names of the routes that declare a status."""
    return [route.name for route in ROUTES if status in route.problems]
