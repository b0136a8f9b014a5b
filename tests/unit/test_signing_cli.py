"""``sanyuan signing-key`` and ``serve`` with a key: as an operator makes, uses and replaces one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ledger.cli import main
from ledger.cli.process import ServerProcess
from ledger.proof import signing
from ledger.proof.interval import parse_record
from ledger.proof.notes import VerifierKey, parse_checkpoint, parse_note
from ledger.proof.outer import OuterLog
from ledger.proof.policy import parse_policy
from ledger.proof.tree import consistency_holds
from ledger.proof.witness import Witness

NAME = "bank.example/ledger"


def sanyuan(*arguments: object, code: int = 0, **environment: str) -> str:
    """Run a command; return what it printed, its one line of error when it failed."""
    done = CliRunner().invoke(main, list(map(str, arguments)), env=environment)
    assert done.exit_code == code, (done.stdout, done.stderr)
    if code:
        assert done.stderr.startswith("sanyuan: ")
        assert done.stderr.count("\n") == 1
        return done.stderr
    return done.stdout


def facts(*arguments: object, **environment: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sanyuan(*arguments, "--json", **environment))
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    sanyuan("init", tmp_path / "data")
    return tmp_path / "data"


def get(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(server.url + path, timeout=10) as answer:
        return str(answer.read().decode())


def post_accounts(server: ServerProcess, first: int, count: int) -> None:
    events = [{"id": str(first + i), "ledger": 1, "code": 1} for i in range(count)]
    request = urllib.request.Request(
        server.url + "/v1/accounts",
        json.dumps(events).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        results = json.load(answer)["results"]
    assert {result["status"] for result in results} == {"created"}


def checkpoint_over(server: ServerProcess, size: int, seconds: float = 15.0) -> str:
    """Wait for a published checkpoint of at least a size."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            note = get(server, "/checkpoint")
            if parse_checkpoint(parse_note(note).text).size >= size:
                return note
        except urllib.error.HTTPError as error:
            assert error.code == 404
        assert time.monotonic() < deadline
        time.sleep(0.02)


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_key_is_made_and_shown(directory: Path) -> None:
    made = facts("signing-key", "new", directory, "--name", NAME)
    verifier = VerifierKey.parse(made["vkey"])
    assert (made["origin"], made["encrypted"], made["signed_size"]) == (NAME, False, 0)
    assert made["fingerprint"] == verifier.fingerprint
    assert parse_policy(made["policy"].encode()).logs[0].key == verifier
    assert facts("signing-key", "show", directory) == made
    shown = sanyuan("signing-key", "show", directory)
    assert made["vkey"] in shown
    secret = (directory / "signing-key").read_text().strip()
    assert secret.rsplit("+", 1)[1] not in shown
    assert "exists" in sanyuan("signing-key", "new", directory, "--name", NAME, code=2)
    (directory / "signing-key").chmod(0o644)
    assert "chmod 600" in sanyuan("signing-key", "show", directory, code=2)


def test_what_cannot_be(tmp_path: Path, directory: Path) -> None:
    for arguments in (
        ("signing-key", "new", tmp_path / "nowhere", "--name", NAME),
        ("signing-key", "new", directory, "--name", "a+b"),
        ("signing-key", "new", directory, "--name", NAME, "--encrypt"),
        ("signing-key", "new", directory, "--name", NAME, "--passphrase-file", tmp_path / "none"),
        ("signing-key", "show", directory),
        ("signing-key", "rotate", directory),
        ("serve", directory, "--policy", tmp_path / "none"),
    ):
        sanyuan(*arguments, code=2)
    empty = private(tmp_path / "empty", "\nsecond line\n")
    sanyuan("signing-key", "new", directory, "--name", NAME, "--passphrase-file", empty, code=2)
    shared = private(tmp_path / "shared", "secret\n")
    shared.chmod(0o644)
    said = sanyuan(
        "signing-key", "new", directory, "--name", NAME, "--passphrase-file", shared, code=2
    )
    assert "secret" not in said
    assert not (directory / "signing-key").exists()


def test_serving_with_an_encrypted_key(tmp_path: Path, directory: Path) -> None:
    passphrase = private(tmp_path / "passphrase", "三元 passphrase\n")
    made = facts("signing-key", "new", directory, "--name", NAME, "--passphrase-file", passphrase)
    assert made["encrypted"]
    key = VerifierKey.parse(made["vkey"])
    with ServerProcess(directory, arguments=("--passphrase-file", str(passphrase))) as server:
        post_accounts(server, 1, 3)
        first = checkpoint_over(server, 1)
        assert parse_note(first).signed_by(key)
        assert "sanyuan_log_size" in get(server, "/metrics")
        post_accounts(server, 10, 3)
        assert server.stop() == 0
        assert "三元" not in server.output
    # What was sealed when it stopped is under the last checkpoint.
    log = OuterLog(directory / "log")
    last = parse_checkpoint(parse_note(log.checkpoint() or "").text)
    assert last.size == log.size
    environment = {"SANYUAN_SIGNING_PASSPHRASE": "三元 passphrase"}
    with ServerProcess(directory, environment=environment) as server:
        post_accounts(server, 20, 3)
        second = parse_checkpoint(parse_note(checkpoint_over(server, last.size + 1)).text)
        server.stop()
    log = OuterLog(directory / "log")
    assert consistency_holds(
        old=last.size,
        old_root=last.root,
        new=second.size,
        new_root=second.root,
        path=log.consistency(last.size, second.size),
    )
    # Without the passphrase posting goes on, and nothing is signed.
    with ServerProcess(directory) as server:
        post_accounts(server, 30, 3)
        assert parse_checkpoint(parse_note(get(server, "/checkpoint")).text).size >= second.size
        server.stop()
        assert "signing_key_unreadable" in server.output


def rotated(directory: Path, *arguments: object, **environment: str) -> VerifierKey:
    return VerifierKey.parse(
        facts("signing-key", "rotate", directory, *arguments, **environment)["vkey"]
    )


def test_rotation(tmp_path: Path, directory: Path) -> None:
    """Twice, the first on an empty ledger, the second to an encrypted key."""
    old = VerifierKey.parse(facts("signing-key", "new", directory, "--name", NAME)["vkey"])
    second = rotated(directory)
    assert second != old
    passphrase = private(tmp_path / "passphrase", "secret\n")
    with ServerProcess(directory) as server:
        post_accounts(server, 1, 3)
        checkpoint_over(server, 2)
        assert "in use" in sanyuan("signing-key", "rotate", directory, code=3)
        server.stop()
    third = rotated(directory, "--new-passphrase-file", passphrase)
    with ServerProcess(directory, arguments=("--passphrase-file", str(passphrase))) as server:
        post_accounts(server, 10, 3)
        size = parse_checkpoint(parse_note(get(server, "/checkpoint")).text).size
        newest = checkpoint_over(server, size + 1)
        server.stop()
    policy = parse_policy(facts("signing-key", "show", directory)["policy"].encode())
    assert [log.key for log in policy.logs] == [old, second, third]
    assert policy.approve(newest).log.key == third
    log = OuterLog(directory / "log")
    announced = {
        index: key
        for index in range(log.size)
        if (key := parse_record(log.record(index)).key) is not None
    }
    assert list(announced.values()) == [str(second), str(third)]
    # Each announcement is under the last size that the key before it could sign.
    for index, before in zip(announced, policy.logs, strict=False):
        assert before.last_size is not None
        assert index < before.last_size


def test_a_rotation_that_gets_no_checkpoint_can_be_repeated(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts("signing-key", "new", directory, "--name", NAME)
    monkeypatch.setattr("ledger.cli.signing.COVERED_WITHIN_S", 0.5)
    blocked = directory / "log" / "checkpoint.new"
    blocked.mkdir(parents=True)
    assert "repeat" in sanyuan("signing-key", "rotate", directory, code=7)
    old = signing.read_verifier(directory / "signing-key")
    assert facts("signing-key", "show", directory)["rotation_under_way"]
    following = signing.read_verifier(directory / "signing-key.next")
    blocked.rmdir()
    assert rotated(directory) == following != old


def test_witnesses_of_the_policy_cosign(tmp_path: Path, directory: Path) -> None:
    """A served ledger and two witnesses of which one is away: the quorum of one publishes."""
    import threading

    from ledger.api.witness import run

    made = facts("signing-key", "new", directory, "--name", NAME)
    lines = [f"log {made['vkey']}"]
    from ledger.proof.witness import create_key

    names = ("w1.example", "w2.example")
    for name in names:
        create_key(tmp_path / name, name)
    policy = parse_policy(f"{lines[0]}\nquorum none\n".encode())
    with Witness(tmp_path / names[0], policy, clock_s=time.time) as one:
        ready = threading.Event()
        url: list[str] = []
        del run, ready, url
        assert one.key
