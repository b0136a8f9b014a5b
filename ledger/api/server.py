"""A server: listening sockets, TLS, signals, and the order in which things start and stop.

::

    listen (livez, readyz say recovering) -> start the engine (recovery) -> ready
    stop: no new connections -> followers leave, requests under way are answered -> the engine
    drains
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from aiohttp import web

from ledger.api.app import build_app, stop_following
from ledger.api.context import Limits
from ledger.config import Config
from ledger.errors import ConfigurationError, DiskFailed

if TYPE_CHECKING:
    from ledger.api.keys import KeyRing
    from ledger.engine import Engine
    from ledger.proof.publisher import Publisher

DEFAULT_PORT: Final = 7447
HEADER_BYTES: Final = 8190
HEADER_COUNT: Final = 100
IDLE_S: Final = 75.0
"""A connection may be idle, or send one request's headers, for so long."""
DRAIN_S: Final = 30.0
"""Requests under way at a stop may take so long."""
WATCH_S: Final = 0.25
BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the server's certificate and key are (PEM), and whose client certificates are asked
    for, if any."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None
    """With it, a client without a certificate of these authorities is turned away (mutual TLS)."""

    def context(self) -> ssl.SSLContext:
        """Return the context; raise ConfigurationError when a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authorities is not None:
                context.load_verify_locations(self.client_authorities)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"TLS: {error}") from error
        return context


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens on a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server:
    """One engine on one address. ``start`` listens and returns; the engine is started by
    ``start_engine`` or the caller."""

    def __init__(
        self,
        engine: Engine,
        config: Config | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        keys: KeyRing | None = None,
        tls: Tls | None = None,
        limits: Limits | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """Raises ConfigurationError for another host than loopback without keys, and for TLS files
        that do not work."""
        loopback = is_loopback(host)
        if keys is None and not loopback:
            raise ConfigurationError(
                f"{host} can be reached from other machines: make an API key first (sanyuan "
                f"api-keys),"
                " or listen on 127.0.0.1"
            )
        self.engine = engine
        self.config = config or Config()
        self._host, self._port = host, port
        self._tls = tls.context() if tls is not None else None
        self.publisher = publisher
        self.app = build_app(
            engine,
            self.config,
            keys=keys,
            limits=limits,
            open_metrics=loopback,
            publisher=publisher,
        )
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        assert self._site is not None
        scheme = "https" if self._tls is not None else "http"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._site.port}"

    async def start(self) -> None:
        """Listen; raise ConfigurationError when the address cannot be had."""
        self._runner = web.AppRunner(
            self.app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=IDLE_S,
            lingering_time=5.0,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADER_COUNT,
            shutdown_timeout=DRAIN_S,
        )
        await self._runner.setup()
        self._site = web.TCPSite(
            self._runner, self._host, self._port, ssl_context=self._tls, backlog=BACKLOG
        )
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port}: {error}"
            ) from error

    async def start_engine(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Recover on a thread of its own, so that /readyz can tell how far it is; raises what
        recovery raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def recover() -> None:
            try:
                self.engine.start(progress)
            except BaseException as error:
                outcome: BaseException | None = error
            else:
                outcome = None
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:  # the loop ended: the process was told to stop while recovering
                return

        threading.Thread(target=recover, name="ledger-recovery", daemon=True).start()
        await done

    async def stop(self) -> None:
        """Take no new connections, answer what is under way, close. The engine is the caller's to
        stop, afterwards."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        stop_following(self.app)
        if self._site is not None:
            await self._site.stop()
        await runner.cleanup()


def run(
    engine: Engine,
    config: Config | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    keys: KeyRing | None = None,
    tls: Tls | None = None,
    publisher: Publisher | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_listening: Callable[[str], None] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve an engine that was not started, until SIGTERM or SIGINT; then drain, stop the engine
    and return.

    ``on_listening(url)`` is called before recovery, ``on_ready(url)`` after it. Raises
    ConfigurationError, what recovery
    raises, and DiskFailed when the engine stopped on a failed write. The store stays the caller's
    to close. The ``publisher`` of the log begins after recovery and ends after the engine.
    """
    server = Server(engine, config, host=host, port=port, keys=keys, tls=tls, publisher=publisher)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, progress, on_listening, on_ready))


async def _serve(
    server: Server,
    progress: Callable[[str, int, int], None] | None,
    on_listening: Callable[[str], None] | None,
    on_ready: Callable[[str], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    if on_listening is not None:
        on_listening(server.url)
    stopped = asyncio.ensure_future(stop.wait())
    recovery = asyncio.ensure_future(server.start_engine(progress))
    failure: dict[str, Any] | None = None
    try:
        await asyncio.wait((recovery, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not recovery.done():
            return
        recovery.result()
        if server.publisher is not None:
            server.publisher.start()
        if on_ready is not None:
            on_ready(server.url)
        while failure is None and not stop.is_set():
            await asyncio.wait((stopped,), timeout=WATCH_S)
            failure = _failure(server.engine)
    finally:
        stopped.cancel()
        recovered = recovery.done() and not recovery.cancelled() and recovery.exception() is None
        recovery.cancel()
        await server.stop()
        if recovered:
            await loop.run_in_executor(None, server.engine.stop)
            if server.publisher is not None:
                await loop.run_in_executor(None, server.publisher.stop)
    if failure is not None:
        raise DiskFailed(failure["detail"])


def _failure(engine: Engine) -> dict[str, Any] | None:
    reasons = engine.reasons_not_ready()
    return next((reason for reason in reasons if reason["code"] == "failed"), None)
