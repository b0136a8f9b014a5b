"""The witness over HTTP: ``POST /add-checkpoint`` of C2SP tlog-witness, a status page and metrics.

It asks nobody for a key: what it signs is decided by the log's signature alone. TLS is a proxy's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from ledger.errors import ConfigurationError
from ledger.proof.witness import REQUEST_SIZE_MAX, Witness

DEFAULT_PORT: Final = 7448
THREADS: Final = 8
"""Requests checked and recorded at the same time; of one log, one."""
REQUESTS_MAX: Final = 256
BODY_S: Final = 10.0
"""A request's body must arrive in so long."""
IDLE_S: Final = 75.0
DRAIN_S: Final = 10.0
WATCH_S: Final = 0.25
HEADER_BYTES: Final = 8190
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

_LOG: Final = logging.getLogger("sanyuan.witness")


class WitnessServer:
    """One witness on one address. The witness stays the caller's to close."""

    def __init__(self, witness: Witness, *, host: str, port: int) -> None:
        self._witness = witness
        self._host, self._port = host, port
        self._pool = ThreadPoolExecutor(THREADS, "witness")
        self._requests = 0
        self._too_many = 0
        app = web.Application(client_max_size=REQUEST_SIZE_MAX)
        app.router.add_post("/add-checkpoint", self._add_checkpoint)
        app.router.add_get("/", self._status)
        app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(_without_versions)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_S,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            shutdown_timeout=DRAIN_S,
        )
        self._site: web.TCPSite | None = None

    async def start(self) -> str:
        """Listen, and return where; ConfigurationError when the address cannot be had."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port}: {error}"
            ) from error
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._site.port}"

    async def stop(self) -> None:
        """Take no new connections, answer what is under way."""
        await self._runner.cleanup()
        self._pool.shutdown(wait=True)

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return web.Response(status=415, text="send the request as it is\n")
        if self._requests >= REQUESTS_MAX:
            self._too_many += 1
            return web.Response(
                status=503, text="too many requests\n", headers={"Retry-After": "1"}
            )
        self._requests += 1
        try:
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                return web.Response(status=408, text="the request did not arrive in time\n")
            loop = asyncio.get_running_loop()
            # A client that goes away must not end what is being recorded.
            answer = await asyncio.shield(
                loop.run_in_executor(self._pool, self._witness.add_checkpoint, body)
            )
        finally:
            self._requests -= 1
        return web.Response(
            status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type}
        )

    async def _status(self, request: web.Request) -> web.Response:
        status = await self._read_status()
        text = json.dumps(status, indent=1, ensure_ascii=False) + "\n"
        return web.Response(text=text, content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        text = metrics_text(await self._read_status(), too_many=self._too_many)
        return web.Response(body=text.encode(), headers={"Content-Type": METRICS})

    async def _read_status(self) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._witness.status)


async def _without_versions(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sanyuan-witness"


def metrics_text(status: dict[str, object], *, too_many: int) -> str:
    """Return a witness's status in the text format of Prometheus."""
    lines: list[str] = []

    def family(name: str, kind: str, doc: str) -> None:
        lines.append(f"# HELP {name} {doc}")
        lines.append(f"# TYPE {name} {kind}")

    name = "sanyuan_witness_requests_total"
    family(name, "counter", "Requests to cosign, by how they ended.")
    outcomes = status["outcomes"]
    assert isinstance(outcomes, dict)
    lines += [f'{name}{{outcome="{outcome}"}} {count}' for outcome, count in outcomes.items()]
    lines.append(f'{name}{{outcome="too_many"}} {too_many}')
    logs = status["logs"]
    assert isinstance(logs, list)
    labelled = [(f'origin="{_label(log["origin"])}"', log) for log in logs]
    name = "sanyuan_witness_refused_total"
    family(name, "counter", "Signed checkpoints refused, by log: forks above all.")
    for label, log in labelled:
        for reason in ("fork", "inconsistent"):
            lines.append(f'{name}{{{label},reason="{reason}"}} {log["outcomes"].get(reason, 0)}')
    name = "sanyuan_witness_log_size"
    family(name, "gauge", "Records under the newest checkpoint.")
    lines += [f"{name}{{{label}}} {log['size']}" for label, log in labelled]
    name = "sanyuan_witness_recorded_timestamp_seconds"
    family(name, "gauge", "When that checkpoint was recorded or asked for again, since 1970.")
    lines += [
        f"{name}{{{label}}} {log['recorded_at_s']}"
        for label, log in labelled
        if log["recorded_at_s"] is not None
    ]
    name = "sanyuan_witness_evidence"
    family(name, "gauge", "Contradicting checkpoints kept as evidence.")
    evidence = status["evidence"]
    assert isinstance(evidence, list)
    lines.append(f"{name} {len(evidence)}")
    name = "sanyuan_witness_ready"
    family(name, "gauge", "1 when checkpoints can be recorded.")
    lines.append(f"{name} {1 if status['failure'] is None else 0}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def run(witness: Witness, *, host: str, port: int, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is under way and return.

    ``on_listening(url)`` is called when it listens. Raises ConfigurationError when the address
    cannot be had, and DiskFailed when the disk failed.
    """
    with asyncio.Runner() as runner:
        runner.run(_serve(witness, host, port, on_listening))


async def _serve(
    witness: Witness, host: str, port: int, on_listening: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = WitnessServer(witness, host=host, port=port)
    on_listening(await server.start())
    try:
        while not stop.is_set() and witness.failure is None:
            try:
                async with asyncio.timeout(WATCH_S):
                    await stop.wait()
            except TimeoutError:
                continue
    finally:
        await server.stop()
    if witness.failure is not None:
        raise witness.failure
