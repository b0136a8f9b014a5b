"""Others' programs accept our log, our checkpoints and our witness: Tessera's fsck and client,
torchwood's litewitness.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
