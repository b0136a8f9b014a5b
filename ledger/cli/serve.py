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
from ledger.cli.signing import (
    key_file,
    key_option,
    passphrase_of,
    passphrase_option,
    policy_option,
    publisher_of,
)
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import ConfigurationError, DirectoryInUse
from ledger.proof.signing import was_made
from ledger.storage.lmdb_store import LmdbStore

_LOG: Final = logging.getLogger("sanyuan.log")
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
@key_option
@passphrase_option
@policy_option
@config_file
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def serve(
    directory: Path,
    port: int,
    host: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    key_path: Path | None,
    passphrase_file: Path | None,
    policy_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Serve the ledger in DIRECTORY over HTTP.

    Prints one line, `ready URL ...`, when it takes requests. With API keys in the directory every
    request must show one; without, only the loopback interface is served. SIGTERM and SIGINT drain:
    what was taken is finished and made durable. SIGUSR1 says that the clock is right after it
    jumped.

    With a signing key (`sanyuan signing-key new`) signed checkpoints are published; when the key
    cannot be read, posting goes on and /readyz says so.
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
        key = key_file(directory, key_path)
        publisher = None
        if key_path is not None or policy_path is not None or was_made(key):
            publisher = publisher_of(
                directory,
                engine,
                key=key,
                passphrase=passphrase_of(key, passphrase_file),
                policy_path=policy_path,
            )
        else:
            nothing = "nothing is published: make a key with sanyuan signing-key new"
            _LOG.warning("no_signing_key: %s", nothing)
            engine.warnings.append(lambda: [("no_signing_key", nothing)])
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
            publisher=publisher,
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
