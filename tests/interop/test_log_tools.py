"""Others' programs accept our log, our checkpoints and our witness: Tessera's fsck and client,
torchwood's litewitness.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.cli.process import ServerProcess
from ledger.proof import notes
from ledger.proof.cosigners import Cosigners
from ledger.proof.outer import OuterLog
from ledger.proof.policy import QuorumNotMet, parse_policy
from tests.interop import go_tools
from tests.unit.test_outer import KEY, filled
from tests.witnesses import SmallLog, WitnessProcess

pytestmark = pytest.mark.long


@pytest.fixture(scope="session")
def tools() -> Iterator[Path]:
    """Where the tools are installed."""
    with tempfile.TemporaryDirectory(prefix="sanyuan-go-") as folder:
        yield Path(folder)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="sanyuan-") as folder:
        yield Path(folder)


def published(log: OuterLog) -> notes.Note:
    checkpoint = notes.Checkpoint(KEY.name, log.size, log.root())
    note = notes.sign_checkpoint(KEY, checkpoint)
    log.publish(str(note))
    return note


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600, 65_536 + 300])
def test_fsck_makes_our_root_again(tools: Path, tmp_path: Path, size: int) -> None:
    program = go_tools.install("fsck", tools)
    log = filled(tmp_path / "log", size)
    published(log)
    with go_tools.serving(log.directory) as url:
        good, output = go_tools.fsck(program, tmp_path, url, str(KEY.verifier))
    assert good, output
    assert f"size {size} and root {notes.encode_base64(log.root())}" in output


@pytest.mark.parametrize("part", ["tile/0/000", "tile/0/002.p/88", "tile/entries/001", "tile/1/"])
def test_fsck_sees_one_flipped_bit(tools: Path, tmp_path: Path, part: str) -> None:
    program = go_tools.install("fsck", tools)
    log = filled(tmp_path / "log", 600)
    published(log)
    path = log.directory / part
    if part.endswith("/"):
        (path,) = path.rglob("2")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with go_tools.serving(log.directory) as url:
        good, output = go_tools.fsck(program, tmp_path, url, str(KEY.verifier))
    assert not good, output


def test_litewitness_cosigns_our_checkpoints(tools: Path, short: Path, tmp_path: Path) -> None:
    program = go_tools.install("litewitness", tools)
    log = filled(tmp_path / "log", 300)
    with (
        go_tools.litewitness(program, short, KEY.verifier) as (url, vkey),
        WitnessProcess(tmp_path / "ours", str(KEY.verifier)) as ours,
    ):
        policy = parse_policy(
            f"log {KEY.verifier}\nwitness theirs {vkey} {url}\n{ours.policy_line}\n"
            f"group both all theirs {ours.key.name}\nquorum both\n".encode()
        )
        cosigners = Cosigners(policy, timeout_s=30, patience_s=30)
        for size in (1, 255, 256, 257, 300):
            checkpoint = notes.Checkpoint(KEY.name, size, log.root(size))
            note = notes.sign_checkpoint(KEY, checkpoint)
            with pytest.raises(QuorumNotMet):
                policy.approve(note)
            found = cosigners.collect(
                note, lambda old, size=size: log.consistency(old, size), within_s=60
            )
            assert found.quorum_met, found.problems
            approved = policy.approve(bytes(found.note))
            assert [witness.name for witness in approved.cosignatures] == ["theirs", ours.key.name]
        # Another client, which does not know how far the witness is, and a fork.
        cosigners.close()
        cosigners = Cosigners(policy, timeout_s=30, patience_s=30)
        assert cosigners.collect(note, lambda old: [], within_s=60).quorum_met
        forked = notes.sign_checkpoint(KEY, notes.Checkpoint(KEY.name, 300, bytes(32)))
        refused = cosigners.collect(forked, lambda old: [], within_s=60)
        assert refused.cosigned == ()
        assert all("fork" in problem for problem in refused.problems.values()), refused.problems
        assert [state.refused for state in cosigners.states()] == [1, 1]
        cosigners.close()


def test_a_log_of_others_is_cosigned_by_our_witnesses(tools: Path, tmp_path: Path) -> None:
    """Tessera's own client of witnesses collects two cosignatures of ours, twice."""
    program = go_tools.install("posix-oneshot", tools)
    log = SmallLog("tessera.example/log")
    (tmp_path / "key").write_text(log.key.secret_text())
    entries = tmp_path / "entries"
    entries.mkdir()
    with (
        WitnessProcess(tmp_path / "w1", log.vkey) as one,
        WitnessProcess(tmp_path / "w2", log.vkey) as two,
    ):
        text = (
            f"witness one {one.key} {one.url}\nwitness two {two.key} {two.url}\n"
            "group both all one two\nquorum both\n"
        )
        (tmp_path / "policy").write_text(text)
        policy = parse_policy(f"log {log.vkey}\n{text}".encode())
        for number, size in ((0, 3), (1, 6)):
            for name in ("a", "b", "c"):
                (entries / name).write_text(f"{number}{name}")
            done = subprocess.run(
                [
                    *(program, f"--storage_dir={tmp_path / 'log'}", f"--entries={entries}/*"),
                    *(f"--private_key={tmp_path / 'key'}", "--logtostderr"),
                    f"--witness_policy_file={tmp_path / 'policy'}",
                ],
                capture_output=True,
                text=True,
                timeout=go_tools.RUN_WITHIN_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            approved = policy.approve((tmp_path / "log" / "checkpoint").read_bytes())
            assert approved.checkpoint.size == size
            assert len(approved.cosignatures) == 2


def sanyuan(*arguments: object) -> str:
    command = [sys.executable, "-m", "ledger", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def open_accounts(connection: http.client.HTTPConnection, first: int, count: int) -> None:
    for number in range(first, first + count):
        body = json.dumps({"id": str(number), "ledger": 1, "code": 1})
        connection.request("POST", "/v1/accounts", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        assert answer["results"][0]["status"] == "created", answer


def test_a_ledger_with_witnesses_of_three_kinds_of_house(
    tools: Path, short: Path, tmp_path: Path
) -> None:
    """A served ledger, cosigned by litewitness and by two witnesses of ours, is killed and served
    again; fsck takes its log over HTTP and from its files.
    """
    checker = go_tools.install("fsck", tools)
    other = go_tools.install("litewitness", tools)
    directory = tmp_path / "bank"
    sanyuan("init", directory)
    name = "bank.example/ledger"
    made = json.loads(sanyuan("signing-key", "new", directory, "--name", name, "--json"))
    key = notes.VerifierKey.parse(made["vkey"])
    with (
        go_tools.litewitness(other, short, key) as (url, vkey),
        WitnessProcess(tmp_path / "w1", str(key)) as one,
        WitnessProcess(tmp_path / "w2", str(key)) as two,
    ):
        path = tmp_path / "policy"
        path.write_text(
            f"log {key}\nwitness lite {vkey} {url}\n{one.policy_line}\n{two.policy_line}\n"
            f"group ours any {one.key.name} {two.key.name}\ngroup all-houses all lite ours\n"
            "quorum all-houses\n"
        )
        policy = parse_policy(path.read_bytes())
        first = 1
        for size in (100, 300):  # the second has a full tile
            with ServerProcess(
                directory,
                arguments=("--policy", str(path)),
                environment={"SANYUAN_SEAL_INTERVAL_MS": "10"},
            ) as server:
                connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
                deadline = time.monotonic() + 120
                published = 0
                while published < size:
                    assert time.monotonic() < deadline, server.output
                    open_accounts(connection, first, 50)
                    first += 50
                    connection.request("GET", "/checkpoint")
                    answer = connection.getresponse()
                    note = answer.read()
                    if answer.status == 200:
                        approved = policy.approve(note)
                        assert "lite" in {witness.name for witness in approved.cosignatures}
                        assert approved.checkpoint.size >= published
                        published = approved.checkpoint.size
                good, output = go_tools.fsck(checker, tmp_path, server.url, str(key))
                assert good, output
                connection.close()
                server.kill()
        with go_tools.serving(directory / "log") as files:
            good, output = go_tools.fsck(checker, tmp_path, files, str(key))
        assert good, output
