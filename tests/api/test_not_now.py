"""When the server cannot: recovering, overloaded, out of disk, out of time, broken, stopping."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.api.context import Limits
from ledger.api.server import Server
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import DataDamaged, DiskFailed, Unavailable
from ledger.storage.memory import MemoryStore
from tests.api.harness import EXAMPLES, WRITES, Service, routes_with, running


async def test_everything_waits_for_recovery() -> None:
    async with running(start_engine=False) as service:
        for name in routes_with(503):
            method, path, body = EXAMPLES[name]
            answer = await service.call(method, path, body)
            assert (answer.status, answer.code) == (503, "recovering"), name
            assert answer.headers["Retry-After"] == "1"
        ready = await service.get("/readyz")
        assert ready.status == 503
        assert [reason["code"] for reason in ready.json["reasons"]] == ["recovering"]
        assert (await service.get("/livez")).status == 200
        assert (await service.get("/metrics")).status == 200
        await service.server.start_engine()
        assert (await service.get("/readyz")).json == {"ready": True, "reasons": [], "warnings": []}


async def test_readiness_tells_how_far_recovery_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    store = MemoryStore(config)
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    recover = store.recover

    def slowly(core: Any, progress: Any) -> Any:
        progress("journal", 3, 10)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return recover(core, progress)

    monkeypatch.setattr(store, "recover", slowly)
    async with running(start_engine=False, engine=Engine(store, config)) as service:
        starting = asyncio.create_task(service.server.start_engine())
        for _ in range(200):
            reason = (await service.get("/readyz")).json["reasons"][0]
            if reason["done"]:
                break
            await asyncio.sleep(0.01)
        assert (reason["stage"], reason["done"], reason["total"]) == ("journal", 3, 10)
        go_on.set()
        await starting
        assert (await service.get("/readyz")).status == 200


async def test_more_requests_than_the_server_takes() -> None:
    async with running(limits=Limits(requests=0)) as service:
        for name in routes_with(429):
            method, path, body = EXAMPLES[name]
            answer = await service.call(method, path, body)
            assert (answer.status, answer.code) == (429, "too_many_requests"), name
            assert answer.headers["Retry-After"] == "1"


async def test_more_bytes_and_followers_than_the_server_takes() -> None:
    async with running(limits=Limits(body_bytes=100, followers=0)) as service:
        _, path, body = EXAMPLES["create_transfers"]
        answer = await service.post(path, [body] * 2)
        assert (answer.status, answer.code) == (429, "too_many_requests")
        for parameters in ({"follow": "true"}, {"wait": "1"}):
            assert (await service.get("/v1/events", **parameters)).status == 429
        assert (await service.get("/v1/events")).status == 200
        assert service.context.metrics.body_bytes_in_flight == 0
        assert service.context.metrics.followers == 0


class Gate:
    """A hook of the memory store that holds or fails writes of the journal."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __call__(self, what: str, when: str) -> None:
        if self.failure is not None and when == "before":
            raise self.failure


async def test_a_write_whose_outcome_is_unknown() -> None:
    config, gate = Config(), Gate()
    engine = Engine(MemoryStore(config, hook=gate), config)
    async with running(engine=engine) as service:
        await service.bank()
        gate.failure = OSError(5, "Input/output error")
        answer = await service.transfer(7, 1, 2, 5)
        assert (answer.status, answer.code) == (500, "outcome_unknown")
        assert answer.json["retry"] == "same ids"
        assert "Input" not in answer.raw.decode()
        later = await service.transfer(8, 1, 2, 5)
        assert (later.status, later.code) == (503, "failed")
        ready = await service.get("/readyz")
        assert ready.json["reasons"][0]["code"] == "failed"
        assert (await service.get("/v1/accounts/1")).status == 503


async def test_a_full_disk_stops_posting_and_not_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as service:
        await service.bank()
        store = service.engine.store
        monkeypatch.setattr(store, "posting_allowed", lambda: False)
        monkeypatch.setattr(store, "free_bytes", lambda: 17)
        for _ in range(100):
            if (await service.get("/readyz")).status == 503:
                break
            await asyncio.sleep(0.02)
        answer = await service.transfer(7, 1, 2, 5)
        assert (answer.status, answer.code) == (503, "disk_nearly_full")
        assert "17 bytes" in answer.json["detail"]
        assert (await service.get("/v1/accounts/1")).status == 200
        assert (await service.get("/v1/events")).status == 200
        monkeypatch.undo()
        for _ in range(100):
            if (await service.get("/readyz")).status == 200:
                break
            await asyncio.sleep(0.02)
        assert (await service.transfer(7, 1, 2, 5)).statuses == ["created"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("secret inside"), 500, "internal_error"),
        (KeyError("secret inside"), 500, "internal_error"),
        (DiskFailed("secret inside"), 500, "outcome_unknown"),
        (DataDamaged("secret inside"), 500, "outcome_unknown"),
        (Unavailable("queue_full", "as many requests wait", 7), 503, "queue_full"),
        (Unavailable("clock_jumped", "the clock stepped"), 503, "clock_jumped"),
        (Unavailable("holds_full", "holds"), 503, "holds_full"),
    ],
)
async def test_nothing_from_inside_leaks(
    bank: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(bank.engine, "submit_async", fail)
    for name in WRITES:
        method, path, body = EXAMPLES[name]
        answer = await bank.call(method, path, body)
        assert (answer.status, answer.code) == (status, code)
        assert "secret" not in answer.raw.decode()
        if isinstance(error, Unavailable):
            assert answer.headers["Retry-After"] == str(error.retry_after_s)


async def test_damage_found_by_a_read(bank: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise DataDamaged("block 7 of /srv/secret")

    monkeypatch.setattr(type(bank.context.reads), "account", fail)
    answer = await bank.get("/v1/accounts/1")
    assert (answer.status, answer.code) == (500, "data_damaged")
    assert "secret" not in answer.raw.decode()


async def test_a_stop_answers_what_is_under_way() -> None:
    config = Config()
    engine = Engine(MemoryStore(config), config)
    async with running(engine=engine) as service:
        await service.bank()
        posting = [asyncio.create_task(service.transfer(5000 + n, 1, 2, 1)) for n in range(50)]
        while service.context.metrics.in_flight == 0:
            await asyncio.sleep(0)
        await service.server.stop()
        done = await asyncio.gather(*posting, return_exceptions=True)
        answered = sum(1 for one in done if not isinstance(one, BaseException))
        accounts = engine.read(lambda core: core.lookup_accounts(ids_of(1))).result()[0]
        assert answered > 0
        assert int(accounts["debits_posted"]["lo"][0]) == answered


def ids_of(*numbers: int) -> Any:
    import numpy as np

    from ledger import layout

    return np.array([layout.from_int(number) for number in numbers], layout.U128)


async def test_metrics_count_by_route_and_not_by_path(bank: Service) -> None:
    for number in (1, 2, 3):
        await bank.get(f"/v1/accounts/{number}")
    await bank.get("/nowhere/at/all")
    text = (await bank.get("/metrics")).raw.decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = "sanyuan_http_requests_total"
    labels = 'route="/v1/accounts/{id}",method="GET",status="200"'
    assert samples[f"{name}{{{labels}}}"] == "3"
    assert samples[f'{name}{{route="unknown",method="any",status="404"}}'] == "1"
    assert "nowhere" not in text
    assert float(samples["sanyuan_accounts"]) == 3
    assert float(samples["sanyuan_ready"]) == 1
    for line in text.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) \w+ .+|[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [-+0-9.e]+', line
        ), line
    for family in re.findall(r"# TYPE (\w+) histogram", text):
        counts = [(key, float(value)) for key, value in samples.items() if key.startswith(family)]
        by_label: dict[str, list[float]] = {}
        for key, value in counts:
            if "_bucket" in key:
                by_label.setdefault(re.sub(r',?le="[^"]*"', "", key), []).append(value)
        for values in by_label.values():
            assert values == sorted(values)


SERVE = """
import sys
from pathlib import Path
from ledger.api import server
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import LedgerError
from ledger.storage import directory
from ledger.storage.lmdb_store import LmdbStore

path, config = Path(sys.argv[1]), Config(write_ahead_bytes=0, disk_reserve_bytes=0)
store = LmdbStore(path, config)
try:
    server.run(
        Engine(store, config), config, port=0,
        on_ready=lambda url: print(url, flush=True),
    )
finally:
    store.close()
print("stopped")
"""


async def test_a_process_serves_from_disk_until_it_is_told_to_stop(tmp_path: Path) -> None:
    from ledger.storage import directory

    path = tmp_path / "data"
    directory.create(path)
    for first in (True, False):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().strip()
        import aiohttp

        async with aiohttp.ClientSession() as session:
            events = [{"id": str(n), "ledger": 1, "code": 1} for n in (1, 2)]
            async with session.post(url + "/v1/accounts", json=events) as response:
                statuses = [one["status"] for one in (await response.json())["results"]]
            assert statuses == (["created"] * 2 if first else ["exists"] * 2)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            rest = await process.stdout.read()
            assert await process.wait() == 0
        assert rest == b"stopped\n"


async def test_a_server_says_where_it_listens() -> None:
    server = Server(Engine(MemoryStore(Config()), Config()), host="::1", port=0)
    await server.start()
    try:
        assert re.fullmatch(r"http://\[::1\]:\d+", server.url)
    finally:
        await server.stop()
        await server.stop()
