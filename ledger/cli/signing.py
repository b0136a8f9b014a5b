"""``sanyuan signing-key``: the key that signs the checkpoints of a ledger's outer log; and what
``serve`` and ``rotate`` share to publish that log.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Final

import click

from ledger import config as configuration
from ledger import layout
from ledger.cli.console import print_json
from ledger.cli.directory import config_file
from ledger.engine import Engine
from ledger.errors import ConfigurationError, RequestRefused, Unavailable
from ledger.proof import signing
from ledger.proof.cosigners import Cosigners
from ledger.proof.notes import VerifierKey, parse_checkpoint
from ledger.proof.outer import LOG
from ledger.proof.policy import POLICY_SIZE_MAX, BadPolicy, Policy, parse_policy
from ledger.proof.publisher import Publisher
from ledger.storage.directory import read_format
from ledger.storage.lmdb_store import LmdbStore

PASSPHRASE_VARIABLE: Final = "SANYUAN_SIGNING_PASSPHRASE"
COVERED_WITHIN_S: Final = 120.0
"""The checkpoint over an announced key must be published so soon, cosignatures and all."""

DIRECTORY = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
key_option = click.option(
    "--signing-key",
    "key_path",
    type=FILE,
    help="The key's file; by default signing-key in the data directory.",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    help="Its first line is the key's passphrase; mode 0600. Or set SANYUAN_SIGNING_PASSPHRASE.",
)
policy_option = click.option(
    "--policy",
    "policy_path",
    type=FILE,
    help="C2SP tlog-policy: witnesses with their URLs, and the quorum that publishes a checkpoint.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


# ----------------------------------------------------------------------------------------------
# What serve and rotate share
# ----------------------------------------------------------------------------------------------


def key_file(directory: Path, key_path: Path | None) -> Path:
    """Return where the signing key of a data directory is."""
    return directory / signing.DEFAULT_NAME if key_path is None else key_path


def read_passphrase(file: Path | None, *, ask: str | None, confirm: bool = False) -> bytes | None:
    """Return a passphrase from a file, else from the environment, else from whoever is at the
    terminal (with ``ask`` as the question); None when there is none of these.

    Raises ConfigurationError for an empty one and for a file that others can read.
    """
    if file is not None:
        text = _first_line(file)
    elif PASSPHRASE_VARIABLE in os.environ:
        text = os.environ[PASSPHRASE_VARIABLE]
    elif ask is not None and sys.stdin.isatty():
        text = click.prompt(ask, hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        return None
    data = text.encode("utf-8", "surrogateescape")
    if not data or len(data) > signing.PASSPHRASE_BYTES_MAX:
        raise ConfigurationError(
            f"a passphrase has 1 to {signing.PASSPHRASE_BYTES_MAX} bytes, and this has {len(data)}"
        )
    return data


def _first_line(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise ConfigurationError(f"{file} can be read by others: chmod 600 {file}")
            line = opened.readline(signing.PASSPHRASE_BYTES_MAX + 2)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    return line.removesuffix(b"\n").decode("utf-8", "surrogateescape")


def read_policy_file(path: Path) -> Policy:
    """Return a policy from its file; raise ConfigurationError when it cannot be used."""
    try:
        with open(path, "rb") as opened:
            return parse_policy(opened.read(POLICY_SIZE_MAX + 1))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except BadPolicy as error:
        raise ConfigurationError(f"{path}: {error}") from error


def passphrase_of(key: Path, file: Path | None) -> bytes | None:
    """Return the passphrase of a signing key, None when it needs none or cannot be read now."""
    try:
        encrypted = signing.is_encrypted(key)
    except signing.KeyUnreadable:
        encrypted = file is not None
    return read_passphrase(file, ask=f"Passphrase of {key}") if encrypted else None


def publisher_of(
    directory: Path,
    engine: Engine,
    *,
    key: Path,
    passphrase: bytes | None,
    policy_path: Path | None,
) -> Publisher:
    """Return the publisher of an engine's log, not started. A key that cannot be used is its to
    report; a policy that cannot is a ConfigurationError.
    """
    policy = None if policy_path is None else read_policy_file(policy_path)
    needs_witnesses = policy is not None and bool(policy.needed_witnesses)
    publisher = Publisher(
        directory / LOG,
        instance=engine.store.instance,
        journal=engine.reader,
        key=key,
        passphrase=passphrase,
        policy=policy,
        cosigners=Cosigners(policy) if policy is not None and needs_witnesses else None,
    )
    engine.on_sealed.append(publisher.sealed)
    engine.warnings.append(publisher.warnings)
    return publisher


# ----------------------------------------------------------------------------------------------
# Commands
# ----------------------------------------------------------------------------------------------


@click.group("signing-key")
def signing_key() -> None:
    """Make, show and replace the key that signs a ledger's checkpoints.

    What to do when a key is lost or stolen is in docs/keys.md.
    """


@signing_key.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--name",
    required=True,
    help="The log's name for ever, like a web address without https://, e.g. bank.example/ledger.",
)
@key_option
@passphrase_option
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase; needs a terminal.")
@json_option
def new(
    directory: Path,
    name: str,
    key_path: Path | None,
    passphrase_file: Path | None,
    encrypt: bool,
    as_json: bool,
) -> None:
    """Make the signing key of the ledger in DIRECTORY, and print what auditors need to know of it.

    Without a passphrase the file is only kept from others by its mode, 0600.
    """
    read_format(directory)
    path = key_file(directory, key_path)
    passphrase = _new_passphrase(passphrase_file, encrypt)
    signing.create_key(path, name=name, passphrase=passphrase)
    _show(path, as_json)


def _new_passphrase(file: Path | None, encrypt: bool) -> bytes | None:
    ask = "Passphrase of the new key" if encrypt else None
    passphrase = read_passphrase(file, ask=ask, confirm=True)
    if encrypt and passphrase is None:
        raise ConfigurationError("--encrypt asks at a terminal, and there is none")
    return passphrase


@signing_key.command()
@click.argument("directory", type=DIRECTORY)
@key_option
@json_option
def show(directory: Path, key_path: Path | None, as_json: bool) -> None:
    """Print the public key of the ledger in DIRECTORY, and the policy for auditors."""
    _show(key_file(directory, key_path), as_json)


def _show(path: Path, as_json: bool) -> None:
    signing.finish_switch(path)
    verifier = signing.read_verifier(path)
    note = signing.last_signed(path)
    policy = signing.policy_text(signing.read_policy(path).logs)
    signed = None if note is None else parse_checkpoint(note.text).size
    if as_json:
        print_json(
            {
                "file": str(path),
                "encrypted": signing.is_encrypted(path),
                "origin": verifier.name,
                "vkey": str(verifier),
                "fingerprint": verifier.fingerprint,
                "signed_size": signed,
                "rotation_under_way": signing.next_exists(path),
                "policy": policy,
            }
        )
        return
    kept = "encrypted" if signing.is_encrypted(path) else "not encrypted, mode 0600"
    click.echo(f"file         {path} ({kept})")
    click.echo(f"vkey         {verifier}")
    click.echo(f"fingerprint  SHA-256 {verifier.fingerprint}")
    click.echo(f"signed       {'unknown' if signed is None else f'up to {signed} records'}")
    if signing.next_exists(path):
        click.echo("rotation     under way: repeat sanyuan signing-key rotate")
    click.echo("policy")
    click.echo(policy, nl=False)


@signing_key.command()
@click.argument("directory", type=DIRECTORY)
@key_option
@passphrase_option
@policy_option
@click.option(
    "--new-passphrase-file", type=FILE, help="Passphrase of the new key; else that of the old one."
)
@config_file
@json_option
def rotate(
    directory: Path,
    key_path: Path | None,
    passphrase_file: Path | None,
    policy_path: Path | None,
    new_passphrase_file: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Replace the signing key of the ledger in DIRECTORY, whose server must be stopped.

    The new key is announced in the ledger, the old one signs the checkpoint over that, and signs
    no more. Cut off anywhere, it is finished by being repeated. Prints the new policy: give it to
    auditors and witnesses before the server starts again.
    """
    config = configuration.load(config_path)
    path = key_file(directory, key_path)
    signing.finish_switch(path)
    old = signing.read_verifier(path)
    passphrase = passphrase_of(path, passphrase_file)
    signing.read_key(path, passphrase)  # a wrong one is noticed before anything is done
    following = passphrase
    if new_passphrase_file is not None:
        following = read_passphrase(new_passphrase_file, ask=None)
    store = LmdbStore(directory, config)
    try:
        engine = Engine(store, config)
        publisher = publisher_of(
            directory, engine, key=path, passphrase=passphrase, policy_path=policy_path
        )
        verifier = signing.prepare_next(path, name=old.name, passphrase=following)
        engine.start()
        try:
            publisher.start()
            block = _announce(engine, verifier)
            if not publisher.wait_published(block, COVERED_WITHIN_S):
                why = "; ".join(f"{code}: {detail}" for code, detail in publisher.warnings())
                raise Unavailable(
                    "checkpoint_missing",
                    "the new key is announced, and no checkpoint over it was published"
                    f" ({why or 'not in time'}): the old key stays; repeat the command",
                )
        finally:
            engine.stop()
            publisher.stop()
    finally:
        store.close()
    with signing.locked(path):
        signing.switch_to_next(path)
    _show(path, as_json)


def _announce(engine: Engine, key: VerifierKey) -> int:
    """Post the definition of a signing key, once; return a block by which it is there."""
    text = str(key)
    event: dict[str, object] = {
        "id": int.from_bytes(
            hashlib.sha256(b"sanyuan signing key\n" + text.encode()).digest()[:15]
        ),
        "kind": layout.DEFINITION_KINDS["signing_key"][0],
    }
    metadata = json.dumps({"vkey": text}, separators=(",", ":")).encode()
    events = layout.record_array(layout.DEFINITION, [event])
    reply = engine.submit("definitions", events, metadata={0: metadata}).result()
    status = layout.STATUS_NAMES["ADMINISTRATIVE"][int(reply.results["status"][0])]
    if status not in ("created", "exists"):
        raise RequestRefused("announcement_refused", f"the ledger does not take the key: {status}")
    # When it was there before, it is in some block up to the last.
    return int(reply.position) >> layout.INDEX_BITS
