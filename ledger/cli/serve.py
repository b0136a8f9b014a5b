"""``sanyuan serve``: one data directory, one engine, one address."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from ledger import config as configuration
from ledger.api.keys import KeyRing, list_keys
from ledger.api.server import DEFAULT_PORT, Tls, run
from ledger.cli.console import notes, print_json, stages
from ledger.cli.directory import DIRECTORY, config_file
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import ConfigurationError, DirectoryInUse
from ledger.storage.lmdb_store import LmdbStore

LOCK_PATIENCE_S: Final = 2.0
"""A look at the directory (``sanyuan status``) may hold its lock for a moment; a server longer."""
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 lets the system choose one; the ready line says which.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; another than loopback needs an API key to exist.",
)
@click.option("--tls-cert", type=FILE, help="Certificate chain (PEM).")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.option("--tls-client-ca", type=FILE, help="Ask clients for a certificate of these (PEM).")
@config_file
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def serve(
    directory: Path,
    port: int,
    host: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Serve the ledger in DIRECTORY over HTTP.

    Prints one line, `ready URL ...`, when it takes requests. With API keys in the directory every
    request must show one; without, only the loopback interface is served. SIGTERM and SIGINT drain:
    what was taken is finished and made durable. SIGUSR1 says that the clock is right after it
    jumped.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    config = configuration.load(config_path)
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = Tls(tls_cert, tls_key, tls_client_ca)
    elif tls_cert or tls_key or tls_client_ca:
        raise ConfigurationError("TLS needs --tls-cert and --tls-key")
    store = _opened(directory, config)
    drawing = ExitStack()
    try:
        engine = Engine(store, config)
        keys = KeyRing(directory) if list_keys(directory) else None
        began = time.monotonic()

        def ready(url: str) -> None:
            drawing.close()
            signal.signal(signal.SIGUSR1, lambda number, frame: engine.confirm_clock())
            seconds = time.monotonic() - began
            if as_json:
                facts = {"url": url, "directory": str(directory), "recovery_seconds": seconds}
                print_json(facts)
            else:
                click.echo(f"ready {url} serving {directory}, recovered in {seconds:.2f} s")

        run(
            engine,
            config,
            host=host,
            port=port,
            keys=keys,
            tls=tls,
            progress=drawing.enter_context(stages(quiet=not notes.is_terminal)),
            on_ready=ready,
        )
    finally:
        drawing.close()
        store.close()


def _opened(directory: Path, config: Config) -> LmdbStore:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return LmdbStore(directory, config)
        except DirectoryInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
