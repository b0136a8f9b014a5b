"""``sanyuan witness``: a witness of others' ledgers, with a key and a directory of its own."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click

from ledger.api.witness import DEFAULT_PORT, run
from ledger.cli.console import print_json
from ledger.errors import ConfigurationError
from ledger.proof.notes import BadNote, VerifierKey
from ledger.proof.policy import POLICY_SIZE_MAX, Policy, parse_policy, policy_of_logs
from ledger.proof.witness import Witness, create_key, policy_line, read_key

DIRECTORY = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group()
def witness() -> None:
    """Cosign the checkpoints of ledgers that only ever grow.

    A witness is run by somebody else than the bank. It remembers the newest checkpoint of each
    ledger and cosigns the next one only when everything before is still in it.
    """


@witness.command("new-key")
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--name",
    required=True,
    help="The witness's name, like a web address without https://, e.g. witness.example.org/w1.",
)
@json_option
def new_key(directory: Path, name: str, as_json: bool) -> None:
    """Make a witness in DIRECTORY with a new key, and print what others need to know of it."""
    _show(create_key(directory, name), as_json)


@witness.command("key")
@click.argument("directory", type=DIRECTORY)
@json_option
def show_key(directory: Path, as_json: bool) -> None:
    """Print the public key of the witness in DIRECTORY and its line for a policy."""
    _show(read_key(directory).verifier, as_json)


def _show(key: VerifierKey, as_json: bool) -> None:
    if as_json:
        print_json(
            {"vkey": str(key), "fingerprint": key.fingerprint, "policy_line": policy_line(key)}
        )
    else:
        click.echo(f"vkey         {key}")
        click.echo(f"fingerprint  SHA-256 {key.fingerprint}")
        click.echo(f"policy line  {policy_line(key)}")


@witness.command()
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
    help="Address to listen on. TLS and the name that others know are a proxy's.",
)
@click.option("--log", "logs", multiple=True, help="Key (vkey) of a log to witness; repeatable.")
@click.option(
    "--policy",
    "policy_path",
    type=FILE,
    help="Policy file whose log lines say what to witness, with ranges of replaced keys.",
)
@click.option("--url", help="Where others reach the witness, for its policy line.")
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def serve(
    directory: Path,
    port: int,
    host: str,
    logs: tuple[str, ...],
    policy_path: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Serve the witness in DIRECTORY over HTTP.

    Prints its line for a policy, then `ready URL vkey`. A log that signs two contradicting
    checkpoints is refused, logged, counted in /metrics, and both checkpoints are kept in
    DIRECTORY/evidence.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    policy = _policy(logs, policy_path)
    with Witness(directory, policy, clock_s=time.time) as one:

        def listening(where: str) -> None:
            line = policy_line(one.key, url or where)
            if as_json:
                print_json({"url": where, "vkey": str(one.key), "policy_line": line})
            else:
                click.echo(line)
                click.echo(f"ready {where} {one.key}")

        run(one, host=host, port=port, on_listening=listening)


def _policy(logs: tuple[str, ...], path: Path | None) -> Policy:
    if bool(logs) == (path is not None):
        raise ConfigurationError("say which logs to witness: with --log, or with --policy")
    if path is not None:
        try:
            with open(path, "rb") as opened:
                return parse_policy(opened.read(POLICY_SIZE_MAX + 1))
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from None
    try:
        return policy_of_logs(VerifierKey.parse(text) for text in dict.fromkeys(logs))
    except BadNote as error:
        raise ConfigurationError(f"--log: {error}") from None
