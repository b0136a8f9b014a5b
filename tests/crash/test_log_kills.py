"""A ledger that publishes its log, killed at any point: the log never forks.

Each life is a forked child with a store on disk, an engine under load and a publisher. It is killed
before or after a named step, or at a random moment, or in the middle of a rotation of its key. The
parent is the witness and the public: it remembers every checkpoint that ever left the child, and
every next one must extend all of them. Then the files must be what tlog-tiles promises for the
checkpoint that is published, and every record what the journal says.

``LOG_KILLS_LONG`` says how many random kills, ``CRASH_SEED`` which.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import layout
from ledger.cli import main
from ledger.cli import signing as cli_signing
from ledger.config import Config
from ledger.engine import Engine
from ledger.proof import signing, tree
from ledger.proof.interval import Intervals, Record
from ledger.proof.notes import Checkpoint, Note, parse_checkpoint, parse_note, parse_signatures
from ledger.proof.notes import encode_base64 as b64
from ledger.proof.outer import OuterLog, number_path
from ledger.proof.policy import Policy, parse_policy
from ledger.proof.publisher import Publisher
from ledger.proof.witness import Request, Witness, create_key, policy_line, read_key
from ledger.storage import directory as data_directory
from ledger.storage.live import live_reader
from ledger.storage.lmdb_store import LmdbStore

SEED: Final = int(os.environ.get("CRASH_SEED", "1"))
KILLS_LONG: Final = int(os.environ.get("LOG_KILLS_LONG", "400"))
NAME: Final = "bank.example/ledger"
CONFIG: Final = Config(
    seal_interval_ms=10, disk_reserve_bytes=0, write_ahead_bytes=0, recent_ids=1 << 12
)
CLOCK_SPEED: Final = 20
"""The child's clocks run so much faster, so that every block is sealed and tiles get full."""
START_NS: Final = time.time_ns()
STEPS: Final = [
    (step, when)
    for step in ("append", "tile", "edge", "state", "checkpoint")
    for when in ("before", "after")
] + [("signature", "after"), ("cosignatures", "after")]
PATIENCE_S: Final = 60.0


# ----------------------------------------------------------------------------------------------
# The child
# ----------------------------------------------------------------------------------------------


class Line:
    """Messages over two pipes: the child's request, the parent's answer."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def send(self, kind: int, data: bytes) -> None:
        os.write(self.writing, struct.pack("<BI", kind, len(data)) + data)

    def receive(self) -> tuple[int, bytes] | None:
        head = self._exactly(5)
        if head is None:
            return None
        kind, size = struct.unpack("<BI", head)
        data = self._exactly(size)
        return None if data is None else (kind, data)

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            more = os.read(self.reading, size - len(data))
            if not more:
                return None
            data += more
        return data


@dataclass
class Answered:
    note: Note


class Cosigners:
    """The one witness, which is the parent at the other end of the line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._size = 0

    def collect(
        self, note: Note, prove: Callable[[int], Sequence[bytes]], *, within_s: float
    ) -> Answered:
        new = parse_checkpoint(note.text).size
        for _ in range(3):
            proof = tuple(prove(self._size)) if 0 < self._size < new else ()
            self._line.send(0, bytes(Request(self._size, proof, note)))
            answer = self._line.receive()
            if answer is None:
                break
            status, body = answer
            if status == 200 % 256:
                self._size = new
                return Answered(note.with_signatures(parse_signatures(body.decode())))
            if not body[:-1].isdigit() or int(body) > new:
                break
            self._size = int(body)
        return Answered(note)

    def states(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


def live(directory: Path, line: Line, policy: Policy, point: tuple[str, str, int] | None) -> None:
    """Post and publish until killed; at a point (step, when, how many times before) by oneself."""
    left = -1 if point is None else point[2]

    def hook(step: str, when: str) -> None:
        nonlocal left
        if point is not None and (step, when) == point[:2]:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            left -= 1

    store = LmdbStore(directory, CONFIG, hook=hook)
    engine = hurried_engine(store, CONFIG)
    publisher = Publisher(
        directory / "log",
        instance=store.instance,
        journal=engine.reader,
        key=directory / "signing-key",
        policy=policy,
        cosigners=Cosigners(line),
        hook=hook,
    )
    engine.on_sealed.append(publisher.sealed)
    engine.start()
    publisher.start()
    number = engine.core.account_count
    while True:
        rows = [{"id": number + i, "ledger": 1, "code": 1} for i in range(1, 4)]
        number += 3
        engine.submit("accounts", layout.record_array(layout.ACCOUNT, rows)).result()
        if publisher.warnings():
            line.send(1, repr(publisher.warnings()).encode())
            time.sleep(60)


def hurried_engine(store: LmdbStore, config: Config) -> Engine:
    """An engine whose clocks run fast, in all lives from the same start."""
    return Engine(
        store,
        config,
        clock_ns=lambda: START_NS + (time.time_ns() - START_NS) * CLOCK_SPEED,
        monotonic_ns=lambda: time.monotonic_ns() * CLOCK_SPEED,
    )


def rotate(directory: Path) -> None:
    """Replace the key by the command."""
    cli_signing.Engine = hurried_engine  # type: ignore[assignment, misc]
    os.environ["SANYUAN_SEAL_INTERVAL_MS"] = "10"
    os.environ["SANYUAN_DISK_RESERVE_BYTES"] = "0"
    main(["signing-key", "rotate", str(directory), "--json"], standalone_mode=False)


# ----------------------------------------------------------------------------------------------
# The parent
# ----------------------------------------------------------------------------------------------


class Public:
    """Everybody who ever saw a checkpoint of the log, and the witness."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / "data"
        self.key = self.directory / "signing-key"
        self.seen: dict[int, Checkpoint] = {}
        self.lives = 0
        self.deaths: dict[str, int] = {}
        path.mkdir(exist_ok=True)
        data_directory.create(self.directory)
        signing.create_key(self.key, name=NAME, passphrase=None)
        create_key(path / "witness", "witness.example")

    def policy(self, *, known_only: bool = False) -> Policy:
        """The log's keys, also one that is about to follow, and the witness, who must cosign."""
        signing.finish_switch(self.key)
        text = signing.policy_text(signing.read_policy(self.key).logs)
        if signing.next_exists(self.key) and not known_only:
            following = signing.read_verifier(self.key.with_name("signing-key.next"))
            text = text.replace("quorum none", f"log {following}\nquorum none")
        line = policy_line(read_key(self.path / "witness").verifier)
        return parse_policy(text.replace("quorum none", f"{line}\nquorum witness.example").encode())

    def saw(self, note: Note) -> Checkpoint:
        """Remember a checkpoint: its log signed it, and no other of its size was ever seen."""
        checkpoint = parse_checkpoint(note.text)
        assert self.policy().signing_log(note, checkpoint)
        before = self.seen.setdefault(checkpoint.size, checkpoint)
        assert before == checkpoint, f"two roots of size {checkpoint.size}"
        return checkpoint

    def run(
        self, child: Callable[[Line], None], *, alive_s: float, name: str, wanted: int | None = None
    ) -> bool:
        """Let a child live until it kills itself or its time is over, and check everything; tell
        whether it ended by itself. ``wanted``: until a checkpoint of that size is seen.
        """
        to_parent, to_child = os.pipe(), os.pipe()
        child_id = os.fork()
        if child_id == 0:
            try:
                os.close(to_parent[0])
                os.close(to_child[1])
                output = os.open(self.path / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                child(Line(to_child[0], to_parent[1]))
                os._exit(0)
            except BaseException:
                os.write(output, traceback.format_exc().encode())
            finally:
                os._exit(1)
        os.close(to_parent[1])
        os.close(to_child[0])
        line = Line(to_parent[0], to_child[1])
        try:
            with Witness(self.path / "witness", self.policy(), clock_s=time.time) as witness:
                said = self._attend(line, witness, child_id, time.monotonic() + alive_s, wanted)
                outcomes = witness.status()["logs"]
        finally:
            os.close(line.reading)
            os.close(line.writing)
            _, status = os.waitpid(child_id, 0)
        for one in outcomes:
            for bad in ("fork", "inconsistent", "malformed", "unknown_log", "not_signed"):
                assert not one["outcomes"].get(bad), one
        assert said == "", said
        ended = os.WIFEXITED(status)
        if ended:
            output = (self.path / "output").read_text()
            assert os.WEXITSTATUS(status) == 0, (name, output)
        self.lives += 1
        self.deaths[name] = self.deaths.get(name, 0) + (not ended)
        self.check()
        return ended

    def _attend(
        self, line: Line, witness: Witness, child_id: int, end: float, wanted: int | None
    ) -> str:
        """Answer a child's requests until it is dead; return what it complained of."""
        while True:
            left = end - time.monotonic()
            if left <= 0:
                os.kill(child_id, signal.SIGKILL)
            if not select.select([line.reading], [], [], max(0.0, min(left, 1.0)) or 1.0)[0]:
                continue
            message = line.receive()
            if message is None:
                return ""
            kind, data = message
            if kind == 1:
                os.kill(child_id, signal.SIGKILL)
                return data.decode()
            checkpoint = self.saw(parse_note(data[data.index(b"\n\n") + 2 :]))
            answer = witness.add_checkpoint(data)
            with contextlib.suppress(BrokenPipeError):
                line.send(answer.status % 256, answer.body)
            if wanted is not None and checkpoint.size >= wanted:
                end = min(end, time.monotonic() + 0.2)

    # ---- what must be true of the files ----

    def check(self) -> None:
        """Everything seen is a beginning of the log, which is what the journal says."""
        last = signing.last_signed(self.key)
        assert last is not None
        self.saw(last)
        published = None
        with contextlib.suppress(FileNotFoundError):
            published = parse_note((self.directory / "log/checkpoint").read_bytes())
            self._read_as_a_client(self.saw(published))
        # Opening the log mends it, which is for the next life to do.
        shutil.rmtree(self.path / "copy", ignore_errors=True)
        if (self.directory / "log").exists():
            shutil.copytree(self.directory / "log", self.path / "copy")
        log = OuterLog(self.path / "copy")
        sizes = sorted(self.seen)
        assert sizes[-1] <= log.size
        for size in sizes:
            assert log.root(size) == self.seen[size].root
        for old, new in pairwise(self.seen[size] for size in sizes):
            assert tree.consistency_holds(
                old=old.size,
                old_root=old.root,
                new=new.size,
                new_root=new.root,
                path=log.consistency(old.size, new.size),
            )
        with live_reader(self.directory) as reader:
            instance = data_directory.read_format(self.directory)
            intervals = Intervals(NAME, instance)
            records = [one.text() for one in intervals.read(reader, reader.last_block)]
        assert log.size <= len(records)
        assert [log.record(index) for index in range(log.size)] == records[: log.size]

    def _read_as_a_client(self, checkpoint: Checkpoint) -> None:
        """The files that a checkpoint's size asks for are there, and lead to its root."""
        tile = self.directory / "log" / "tile"
        size, hashes, entries = checkpoint.size, b"", b""
        for number in range(-(-size // 256)):
            width = min(256, size - 256 * number)
            for folder in ("0", "entries"):
                whole = tile / folder / number_path(number)
                partial = tile / folder / f"{number_path(number)}.p" / str(width)
                if width < 256 and partial.exists():
                    data = partial.read_bytes()
                else:  # or the full one, when the log has got on
                    data = whole.read_bytes()
                if folder == "0":
                    hashes += data[: 32 * width]
                else:
                    entries += b"".join(list(bundled(data))[:width])
        leaves = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
        assert len(leaves) == size
        assert tree.root_of(leaves) == checkpoint.root
        assert [tree.leaf_hash(one[2:]) for one in bundled(entries)] == leaves


def bundled(data: bytes) -> Iterator[bytes]:
    """Yield the records of a bundle, each with its size before it."""
    while data:
        size = 2 + int.from_bytes(data[:2], "big")
        yield data[:size]
        data = data[size:]


def kill_again_and_again(path: Path, *, random_kills: int, rotations: int, seed: int) -> Public:
    rng = random.Random(seed)
    public = Public(path)
    todo: list[tuple[str, str] | str | None] = [*STEPS, *[None] * random_kills]
    todo += ["rotate"] * rotations
    rng.shuffle(todo)
    for what in todo:
        if what == "rotate":
            ended = public.run(
                lambda line: rotate(public.directory),
                alive_s=rng.uniform(0.05, 0.9),
                name="rotation",
            )
            assert not (ended and signing.next_exists(public.key))
            continue
        policy = public.policy(known_only=True)
        point = None if what is None else (*what, rng.randrange(3))
        if what is not None and what[0] == "tile":
            point = (*what, 0)
        public.run(
            lambda line, policy=policy, point=point: live(  # type: ignore[misc]
                public.directory, line, policy, point
            ),
            alive_s=rng.uniform(0.1, 0.8) if point is None else PATIENCE_S,
            name="random" if point is None else " ".join(point[:2]),
        )
    for _ in range(100):
        if not signing.next_exists(public.key):
            break
        public.run(lambda line: rotate(public.directory), alive_s=PATIENCE_S, name="rotation")
    # A last life in peace: what was left half done is done.
    policy = public.policy()
    wanted = max(public.seen) + 3
    public.run(
        lambda line: live(public.directory, line, policy, None),
        alive_s=PATIENCE_S,
        name="last",
        wanted=wanted,
    )
    assert max(public.seen) >= wanted
    published = OuterLog(public.directory / "log").published()
    assert published is not None
    for step, when in STEPS:
        assert public.deaths[f"{step} {when}"] == 1
    return public


def test_the_log_never_forks(tmp_path: Path) -> None:
    public = kill_again_and_again(tmp_path, random_kills=4, rotations=3, seed=SEED)
    assert len(public.seen) > 20
    assert max(public.seen) > 256


def test_a_fork_would_be_noticed(tmp_path: Path) -> None:
    """A signer that signs whatever it is given, over roots that are not the journal's; and records
    that are another thing in each life.
    """

    def reckless(self: signing.Signer, size: int, root: bytes, consistency: object) -> Note:
        return signing.sign_checkpoint(self._key, Checkpoint(NAME, size, os.urandom(32)))

    def signs_anything(directory: Path, line: Line, policy: Policy) -> None:
        signing.Signer.sign = reckless  # type: ignore[method-assign, assignment]
        live(directory, line, policy, None)

    def records_its_process(directory: Path, line: Line, policy: Policy) -> None:
        text = Record.text
        process = b64(os.getpid().to_bytes(32, "big"))
        Record.text = lambda self: text(self).replace(b64(self.root), process)  # type: ignore[method-assign]
        live(directory, line, policy, None)

    def three_lives(name: str, child: Callable[[Path, Line, Policy], None]) -> None:
        public = Public(tmp_path / name)
        policy = public.policy()
        for _ in range(3):
            public.run(lambda line: child(public.directory, line, policy), alive_s=0.5, name=name)

    with pytest.raises(AssertionError, match=r"inconsistent|two roots"):
        three_lives("fork", signs_anything)
    with pytest.raises(AssertionError, match="sanyuan interval v1"):
        three_lives("records", records_its_process)


@pytest.mark.long
def test_the_log_never_forks_long(tmp_path: Path) -> None:
    rounds = max(1, KILLS_LONG // 40)
    keys = 0
    for number in range(rounds):
        public = kill_again_and_again(
            tmp_path / f"{number}", random_kills=30, rotations=10, seed=SEED * 1000 + number
        )
        keys += len(public.policy().logs)
    assert keys > rounds
