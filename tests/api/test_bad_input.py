"""What must not be taken: each has a clear answer, changes nothing, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ledger._codec import CONTENT_TYPES
from ledger.api import inputs
from ledger.api.app import ROUTES
from ledger.config import Config
from tests.api.harness import EXAMPLES, WRITES, Service, routes_with, running

JSON = {"Content-Type": "application/json"}
EVENT = EXAMPLES["create_transfers"][2]


@pytest.fixture
async def strict() -> AsyncIterator[Service]:
    """A bank with the smallest limits, and a check that nothing was changed in it."""
    config = Config(body_bytes=1 << 16, body_timeout_s=1, seal_interval_ms=60_000)
    async with running(config=config) as service:
        await service.bank()
        before = service.engine.durable_position
        yield service
        assert service.engine.durable_position == before
        assert (await service.get("/readyz")).status == 200
        assert (await service.get("/v1/trial-balance")).status == 200


async def refused(
    service: Service, raw: bytes, path: str = "/v1/transfers"
) -> tuple[int, str, str]:
    answer = await service.post(path, raw=raw, headers=JSON)
    return answer.status, answer.code, answer.json["detail"]


@pytest.mark.parametrize(
    ("raw", "code", "detail"),
    [
        (b"", "empty_request", "no event"),
        (b"[]", "empty_request", "no event"),
        (b"{", "malformed_json", "byte 1: the body ends"),
        (b"{'id': 1}", "malformed_json", "byte 1"),
        (b'{"id":1,"amount":1}]', "malformed_json", "byte 19"),
        (b'{"id":"\xff"}', "malformed_json", "byte 7: not UTF-8"),
        (b'{"id":NaN}', "malformed_json", "'N' is not JSON"),
        (b"[" * 70 + b"]" * 70, "malformed_json", "nested deeper than 64"),
        (b"7", "wrong_type", "object or an array"),
        (b'[{"id":1,"amount":1},7]', "wrong_type", "event 1: must be an object"),
        (b'{"id":true,"amount":1}', "wrong_type", "event 0, field id"),
        (b'{"id":1,"amount":1.5}', "wrong_type", "field amount"),
        (b'{"id":1,"amount":"1,5"}', "wrong_type", "field amount"),
        (b'{"id":1,"amount":1,"ledger":"1"}', "wrong_type", "field ledger"),
        (b'{"id":1,"amount":null}', "wrong_type", "field amount"),
        (b'{"id":1,"amount":-1}', "out_of_range", "field amount"),
        (b'{"id":1,"amount":9007199254740993}', "out_of_range", "2^53"),
        (b'{"id":1,"amount":"' + b"9" * 39 + b'"}', "out_of_range", "2^128-1"),
        (b'{"id":1,"amount":1,"code":65536}', "out_of_range", "65535"),
        (b'{"id":1,"amount":1,"amuont":2}', "unknown_field", "'amuont'"),
        (b'{"id":1,"amount":1,"amount":2}', "duplicate_field", "field amount"),
        (b'{"amount":1}', "missing_field", "field id"),
        (b'{"id":1}', "missing_field", "field amount"),
        (b'{"id":1,"amount":1,"flags":["pendin"]}', "unknown_flag", "'pendin'"),
        (b'{"id":1,"amount":1,"timestamp":"yesterday"}', "invalid_time", "RFC 3339"),
        (b'{"id":1,"amount":1,"timestamp":"2026-01-01T00:00:00+08:00"}', "invalid_time", "UTC"),
        (b'{"id":1,"amount":1,"metadata":[1]}', "invalid_metadata", "must be an object"),
        (b'{"id":1,"amount":1,"metadata":{"a":1e999}}', "invalid_metadata", "finite"),
        (b'{"id":1,"amount":1,"metadata":{"a":"\\ud800"}}', "malformed_json", "surrogate"),
        (
            b'{"id":1,"amount":1,"metadata":{"a":"' + b"x" * 4096 + b'"}}',
            "metadata_too_large",
            "4104 bytes",
        ),
    ],
)
async def test_bodies_that_cannot_be_taken(
    strict: Service, raw: bytes, code: str, detail: str
) -> None:
    answer = await refused(strict, raw)
    assert answer[:2] == (400, code)
    assert detail in answer[2]
    # One bad event spoils the request, wherever it is: nothing is half-applied.
    if raw.startswith(b'{"id":1') and raw.endswith(b"}"):
        good = json.dumps(EVENT).encode()
        assert (await refused(strict, b"[" + good + b"," + raw + b"]"))[:2] == (400, code)


@pytest.mark.parametrize("name", WRITES)
async def test_every_write_refuses_what_it_does_not_know(strict: Service, name: str) -> None:
    _, path, body = EXAMPLES[name]
    for raw, code in (
        (json.dumps({**body, "nope": 1}).encode(), "unknown_field"),
        (json.dumps({**body, "id": "x"}).encode(), "wrong_type"),
        (json.dumps({**body, "id": None}).encode(), "wrong_type"),
        (b"{}", "missing_field"),
        (json.dumps([body] * 2).encode()[:-1], "malformed_json"),
    ):
        assert (await refused(strict, raw, path))[:2] == (400, code)


async def test_too_many_events() -> None:
    async with running() as service:
        await service.bank()
        raw = b"[" + b",".join([b'{"id":1,"amount":1}'] * 8191) + b"]"
        assert (await refused(service, raw))[:2] == (413, "too_many_events")
        ids = b"[" + b",".join([b"1"] * 8191) + b"]"
        for path in ("/v1/accounts/lookup", "/v1/transfers/lookup"):
            assert (await refused(service, ids, path))[:2] == (413, "too_many_events")
        binary = {"Content-Type": CONTENT_TYPES["transfers"]}
        answer = await service.post("/v1/transfers", raw=bytes(128 * 8191), headers=binary)
        assert (answer.status, answer.code) == (413, "too_many_events")


@pytest.mark.parametrize("size", [127, 129, 255, 1])
@pytest.mark.parametrize("kind", ["accounts", "transfers"])
async def test_records_that_are_not_128_bytes(strict: Service, kind: str, size: int) -> None:
    headers = {"Content-Type": CONTENT_TYPES[kind]}
    answer = await strict.post(f"/v1/{kind}", raw=bytes(size), headers=headers)
    assert (answer.status, answer.code) == (400, "wrong_record_size")
    assert f"{size} bytes" in answer.json["detail"]
    empty = await strict.post(f"/v1/{kind}", raw=b"", headers=headers)
    assert (empty.status, empty.code) == (400, "empty_request")


@pytest.mark.parametrize("name", routes_with(415))
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/vnd.sanyuan.results",
        "application/vnd.sanyuan.accounts, application/json",
        "nonsense",
    ],
)
async def test_other_media_types(strict: Service, name: str, content_type: str | None) -> None:
    _, path, body = EXAMPLES[name]
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await strict.post(path, raw=json.dumps(body).encode(), headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert "application/json" in answer.json["detail"]


async def test_records_of_the_other_kind(strict: Service) -> None:
    for path, kind in (("/v1/accounts", "transfers"), ("/v1/transfers", "accounts")):
        headers = {"Content-Type": CONTENT_TYPES[kind]}
        assert (await strict.post(path, raw=bytes(128), headers=headers)).status == 415


@pytest.mark.parametrize("name", routes_with(413))
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(strict: Service, name: str, chunked: bool) -> None:
    _, path, _ = EXAMPLES[name]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    size = (1 << 16) + 1
    if chunked:
        sent = f"{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{' ' * size}\r\n0\r\n\r\n"
        status, problem = await raw_exchange(strict, sent.encode())
        assert (status, problem["code"]) == (413, "body_too_large")
    else:
        answer = await strict.post(path, raw=b" " * size, headers=JSON)
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert str(size) in answer.json["detail"]


async def raw_exchange(service: Service, sent: bytes, *, close: bool = False) -> tuple[int, Any]:
    """Send bytes over a socket, and nothing more; return the status and the problem document."""
    host, port = service.server.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        await writer.drain()
        if close:
            return 0, None
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().partition("content-length:")[2].split()[0])
            body = await reader.readexactly(size)
        return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body
    finally:
        writer.close()


async def test_a_body_that_stops_half_way(strict: Service) -> None:
    whole = json.dumps(EVENT).encode()
    head = (
        b"POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(whole)
    )
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        await raw_exchange(strict, head + whole[:size], close=True)
    status, problem = await raw_exchange(strict, head + whole[:-1])
    assert (status, problem["code"]) == (408, "body_timeout")
    assert problem["retry"] == "yes"


async def test_broken_transfer_and_content_codings(strict: Service) -> None:
    body = json.dumps(EVENT).encode()
    packed = gzip.compress(body)
    headers = {**JSON, "Content-Encoding": "gzip"}
    answer = await strict.post("/v1/transfers", raw=packed, headers=headers, dry_run="true")
    assert answer.statuses == ["created"]
    answer = await strict.post("/v1/transfers", raw=body, headers=headers)
    assert (answer.status, answer.code) == (400, "malformed_body")
    bomb = gzip.compress(b" " * (1 << 20))
    assert len(bomb) < 1 << 16
    answer = await strict.post("/v1/transfers", raw=bomb, headers=headers)
    assert (answer.status, answer.code) == (413, "body_too_large")


async def test_headers_that_are_too_large_or_no_http(strict: Service) -> None:
    for sent in (
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 500 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"hello\r\n\r\n",
    ):
        status, body = await raw_exchange(strict, sent)
        assert status == 400
        assert b"Traceback" not in body


@pytest.mark.parametrize("name", routes_with(400))
async def test_a_parameter_that_the_route_does_not_have(strict: Service, name: str) -> None:
    method, path, body = EXAMPLES[name]
    answer = await strict.call(method, path, body, dryrun="true")
    assert (answer.status, answer.code) == (400, "unknown_parameter")
    assert "'dryrun'" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/accounts/abc", "invalid_id"),
        ("/v1/accounts/-1", "invalid_id"),
        ("/v1/accounts/01", "invalid_id"),
        (f"/v1/accounts/{2**128}", "invalid_id"),
        ("/v1/transfers/1.0", "invalid_id"),
        ("/v1/accounts/x/transfers", "invalid_id"),
        ("/v1/accounts/x/balance", "invalid_id"),
        ("/v1/accounts/1/balance?at=yesterday", "invalid_parameter"),
        ("/v1/accounts/1/balance?at=2026-02-30T00:00:00Z", "invalid_parameter"),
        (f"/v1/accounts/1/balance?at={2**63}", "invalid_filter"),
        ("/v1/accounts/1?min_position=1:", "invalid_parameter"),
        ("/v1/accounts/1?min_position=1:1048576", "invalid_parameter"),
        (f"/v1/accounts/1?min_position={2**64}", "invalid_parameter"),
        ("/v1/accounts/1/transfers?limit=0", "invalid_filter"),
        ("/v1/accounts/1/transfers?limit=1001", "invalid_filter"),
        ("/v1/accounts/1/transfers?limit=ten", "invalid_parameter"),
        ("/v1/accounts/1/transfers?limit=1&limit=2", "invalid_parameter"),
        ("/v1/accounts/1/transfers?reversed=yes", "invalid_parameter"),
        ("/v1/accounts/1/transfers?side=both", "invalid_parameter"),
        ("/v1/accounts/1/transfers?code=65536", "invalid_parameter"),
        ("/v1/accounts/1/transfers?user_data_128=x", "invalid_parameter"),
        ("/v1/accounts/1/transfers?timestamp_min=9&timestamp_max=8", "invalid_filter"),
        ("/v1/accounts/1/transfers?cursor=x", "invalid_cursor"),
        ("/v1/accounts/1/transfers?cursor=%FF%FE", "invalid_cursor"),
        ("/v1/trial-balance?ledger=cny", "invalid_parameter"),
        ("/v1/events?limit=0", "invalid_filter"),
        ("/v1/events?after=x", "invalid_parameter"),
        ("/v1/events?wait=61", "invalid_parameter"),
        ("/v1/events?follow=1", "invalid_parameter"),
    ],
)
async def test_paths_and_parameters(strict: Service, path: str, code: str) -> None:
    bare, _, query = path.partition("?")
    async with strict.session.get(strict.server.url + path) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["code"]) == (400, code), (bare, query, problem)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"type": "transfers", "limit": 0}, "invalid_filter"),
        ({"type": "transfers", "limit": 1001}, "invalid_filter"),
        ({"type": "transfers", "timestamp_min": 9, "timestamp_max": 8}, "invalid_filter"),
        ({"type": "transfers", "timestamp_min": str(2**63)}, "invalid_filter"),
        ({"type": "change_events", "ledger": 1}, "invalid_filter"),
        ({"type": "change_events", "flags": ["reversed"]}, "invalid_filter"),
        ({"type": "balances"}, "unknown_name"),
        ({"type": 1}, "wrong_type"),
        ({"limit": 1}, "missing_field"),
        ({"type": "transfers", "ledger": "1"}, "wrong_type"),
        ({"type": "transfers", "flags": ["backwards"]}, "unknown_flag"),
        ({"type": "transfers", "debit_account_id": "1"}, "unknown_field"),
        ({"type": "transfers", "cursor": "AAAA"}, "invalid_cursor"),
        ({"type": "transfers", "cursor": 1}, "wrong_type"),
        ([], "wrong_type"),
    ],
)
async def test_queries_that_cannot_match(strict: Service, query: Any, code: str) -> None:
    answer = await strict.post("/v1/query", query)
    assert (answer.status, answer.code) == (400, code)


async def test_a_cursor_belongs_to_its_list(bank: Service) -> None:
    for number in range(3):
        await bank.transfer(100 + number, 1, 2, 5)
    path = "/v1/accounts/2/transfers"
    cursor = (await bank.get(path, limit="1")).json["next"]
    assert (await bank.get(path, limit="2", cursor=cursor)).status == 200
    for other, parameters in (
        ("/v1/accounts/1/transfers", {}),
        (path, {"reversed": "true"}),
        (path, {"code": "1"}),
    ):
        answer = await bank.get(other, cursor=cursor, **parameters)
        assert (answer.status, answer.code) == (400, "invalid_cursor")
    for at in range(len(cursor)):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        assert (await bank.get(path, cursor=changed)).status in (200, 400)
    page = (await bank.post("/v1/query", {"type": "transfers", "limit": 1})).json["next"]
    answer = await bank.post("/v1/query", {"type": "accounts", "limit": 1, "cursor": page})
    assert answer.code == "invalid_cursor"


async def test_other_paths_and_methods(strict: Service) -> None:
    for path in ("/", "/v1", "/v2/accounts", "/v1/accounts/", "/v1/accounts/1/x", "/index.html"):
        answer = await strict.get(path)
        assert (answer.status, answer.code) == (404, "route_not_found")
    for route in ROUTES:
        path = route.path.replace("{id}", "1")
        answer = await strict.call("DELETE", path)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert route.method in answer.headers["Allow"]


@pytest.mark.parametrize("name", routes_with(409))
async def test_a_position_that_never_comes(
    strict: Service, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "POSITION_WAIT_S", 0.01)
    method, path, body = EXAMPLES[name]
    parameter = "after" if name == "follow_events" else "min_position"
    answer = await strict.call(method, path, body, **{parameter: "999:0"})
    assert (answer.status, answer.code) == (409, "position_ahead")
    assert "999:0" in answer.json["detail"]
