"""``sanyuan signing-key`` and ``serve`` with a key: as an operator makes, uses and replaces one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
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
from tests.witnesses import WitnessProcess

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


def failing(*arguments: object) -> str:
    """Run a check that finds something."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 1, (done.stdout, done.stderr)
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
            if error.code != 404:
                raise
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
    assert facts("verify", directory)["clean"]
    tile = max((directory / "log/tile/0/000.p").iterdir(), key=lambda path: int(path.name))
    tile.write_bytes(bytes(len(tile.read_bytes())))
    verdict = json.loads(failing("verify", directory, "--json"))
    assert verdict["differences"] == [f"{tile}: not what follows from the journal"]
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


def warnings(server: ServerProcess) -> dict[str, str]:
    found = json.loads(get(server, "/readyz"))["warnings"]
    return {warning["code"]: warning["detail"] for warning in found}


def test_a_quorum_of_witnesses_publishes(tmp_path: Path, directory: Path) -> None:
    """A served ledger and three witnesses of which two must cosign: one away changes nothing, two
    away stop the publishing and not the posting.
    """
    made = facts("signing-key", "new", directory, "--name", NAME)
    key = VerifierKey.parse(made["vkey"])
    with ExitStack() as stack:
        witnesses = [
            stack.enter_context(WitnessProcess(tmp_path / name, made["vkey"]))
            for name in ("w1", "w2", "w3")
        ]
        names = " ".join(witness.key.name for witness in witnesses)
        lines = [f"log {key}", *(witness.policy_line for witness in witnesses)]
        text = "\n".join([*lines, f"group two 2 {names}", "quorum two", ""])
        policy = parse_policy(text.encode())
        (tmp_path / "policy").write_text(text)
        arguments = ("--policy", str(tmp_path / "policy"))
        with ServerProcess(directory, arguments=arguments) as server:
            post_accounts(server, 1, 3)
            first = policy.approve(checkpoint_over(server, 1))
            assert len(first.cosignatures) >= 2
            witnesses[0].kill()
            post_accounts(server, 10, 3)
            second = policy.approve(checkpoint_over(server, first.checkpoint.size + 1))
            away = {name for name in names.split() if name.endswith("w1")}
            assert {one.name for one in second.cosignatures} == set(names.split()) - away
            witnesses[1].kill()
            post_accounts(server, 20, 3)
            time.sleep(1.5)
            lone = parse_checkpoint(parse_note(get(server, "/checkpoint")).text)
            assert lone == second.checkpoint
            metrics = dict(
                line.rsplit(" ", 1)
                for line in get(server, "/metrics").splitlines()
                if not line.startswith("#")
            )
            assert float(metrics["sanyuan_cosigned_checkpoint_age_seconds"]) > 0.5
            assert float(metrics["sanyuan_checkpoint_age_seconds"]) < 1.0
            assert int(metrics["sanyuan_checkpoint_size"]) > lone.size
            times = [v for n, v in metrics.items() if n.startswith("sanyuan_witness_success")]
            assert len(times) == 3
            assert all(float(one) > 1e9 for one in times)
            server.stop()
        # A ledger that was set back is told apart by everyone.
        log = OuterLog(directory / "log")
        assert log.published() == second.checkpoint
        last = signing.last_signed(directory / "signing-key")
        assert last is not None
        assert parse_checkpoint(last.text).size > second.checkpoint.size


def test_serving_after_an_old_backup(tmp_path: Path, directory: Path) -> None:
    """The journal of yesterday with the key of today: it posts, warns, and never signs."""
    facts("signing-key", "new", directory, "--name", NAME)
    with ServerProcess(directory) as server:
        post_accounts(server, 1, 3)
        checkpoint_over(server, 1)
        sanyuan("backup", directory, tmp_path / "backup")
        post_accounts(server, 10, 3)
        signed = checkpoint_over(server, 2)
        server.stop()
    sanyuan("restore", tmp_path / "backup", tmp_path / "restored")
    for name in ("signing-key", "signing-key.checkpoint", "signing-key.policy"):
        (tmp_path / "restored" / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "restored" / "signing-key").chmod(0o600)
    with ServerProcess(tmp_path / "restored") as server:
        post_accounts(server, 20, 3)
        deadline = time.monotonic() + 10
        while "log_forked" not in warnings(server):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "docs/keys.md" in warnings(server)["log_forked"]
        assert 'sanyuan_warning{code="log_forked"} 1' in get(server, "/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server, "/checkpoint")
        server.stop()
    kept = signing.last_signed(tmp_path / "restored" / "signing-key")
    assert kept is not None
    assert kept.text.split("\n")[1] >= signed.split("\n")[1]


def test_serving_without_a_key_is_warned_of(directory: Path) -> None:
    with ServerProcess(directory) as server:
        assert list(warnings(server)) == ["no_signing_key"]
        post_accounts(server, 1, 3)
        server.stop()
