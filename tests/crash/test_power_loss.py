"""Power loss: whatever the disk holds after a cut, every reply sent before it is there, and the
state is that of a block.

``sanyuan serve`` works under load on its real LMDB files; ``shim.c`` records every write, every
truncation and sync, and every byte sent to a client, in one order. For each cut the files are built
again with all that was synced and some of what was not (``recording.py``), recovered by the
ordinary code in a process of its own, and compared with what the running server noted of its states
(``recorded.py``).

``CRASH_IMAGES`` and ``CRASH_IMAGES_LONG`` say how many images.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Final

import numpy as np
import pytest
from blake3 import blake3

from ledger import layout
from ledger._core import Core
from ledger.engine import Engine
from ledger.errors import ConfigurationError
from ledger.storage.lmdb_store import LmdbStore
from tests.crash.load import Load, Traffic
from tests.crash.mirror import Mirror
from tests.crash.recorded import CONFIG, KNOBS, read_notes, state_digest, value_digest
from tests.crash.recording import (
    Disk,
    Image,
    Kind,
    Record,
    compile_shim,
    read_log,
    recorder_environment,
)

IMAGES = int(os.environ.get("CRASH_IMAGES", "100"))
IMAGES_LONG = int(os.environ.get("CRASH_IMAGES_LONG", "2500"))
REPORT = os.environ.get("CRASH_REPORT")
GO_ON_EVERY: Final = 8
"""One recovered image in so many also goes on serving."""
NOT_MADE = -2
"""The directory is not one yet: its making was cut off."""
_TRANSFER, _ADMINISTRATIVE = (layout.NAMESPACES[name][0] for name in ("transfer", "administrative"))


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery made of an image."""

    last_block: int
    state: bytes
    values: tuple[bytes, ...]
    problem: str = ""


# ---- in a process of the pool ----


def recover(directory: Path, ids: np.ndarray, go_on: bool) -> Recovered:
    """Recover a directory as the server does, look every id up, and remove the image.

    With ``go_on`` the ledger also goes on: a block more is there after another recovery.
    """
    try:
        try:
            store = LmdbStore(directory, replace(CONFIG, write_ahead_bytes=0))
        except ConfigurationError:
            return Recovered(NOT_MADE, b"", ())
        try:
            found = _recovered(store, ids)
        finally:
            store.close()
        if go_on:
            _go_on(directory, found.last_block)
        return found
    except Exception as error:
        return Recovered(NOT_MADE, b"", (), f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(directory.parent, ignore_errors=True)


def _recovered(store: LmdbStore, ids: np.ndarray) -> Recovered:
    core = Core(holds_max=CONFIG.holds)
    found = store.recover(core)
    kinds = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
    expected: dict[int, set[int]] = {_TRANSFER: set(), _ADMINISTRATIVE: set()}
    values = []
    with store.reader() as reader:
        for number in range(found.last_block + 1):
            view = reader.block(number)
            view.check()
            values.append(value_digest(view))
            entries = view.entries()
            for namespace, names in (
                (_TRANSFER, ("transfer", "burned_id")),
                (_ADMINISTRATIVE, ("account_settings", "definition", "administration")),
            ):
                chosen = np.isin(entries["kind"], [kinds[name] for name in names])
                expected[namespace] |= _numbers(entries["record"]["id"][chosen]) - {0}
    for namespace, numbers in expected.items():
        rows = store.resolve_ids(core, ids, {}, namespace)
        known = _numbers(rows["record"]["id"])
        if known != numbers:
            raise AssertionError(
                f"{len(numbers - known)} ids are not found, {len(known - numbers)} too many"
            )
    return Recovered(found.last_block, state_digest(core), tuple(values))


def _go_on(directory: Path, last_block: int) -> None:
    store = LmdbStore(directory, CONFIG)
    try:
        engine = Engine(store, CONFIG)
        engine.start()
        account = {"id": layout.U128_MAX - 1, "ledger": 1, "code": 1}
        events = layout.record_array(layout.ACCOUNT, [account])
        reply = engine.submit("accounts", events).result(30)
        assert reply.results["status"][0] == layout.CREATED
        engine.drain()
        engine.stop()
    finally:
        store.close()
    store = LmdbStore(directory, replace(CONFIG, write_ahead_bytes=0))
    try:
        again = store.recover(Core(holds_max=CONFIG.holds))
        # Expiries may have come before the request, in blocks of their own.
        assert again.last_block > last_block
    finally:
        store.close()


def _numbers(ids: np.ndarray) -> set[int]:
    return {
        low | high << 64 for low, high in zip(ids["lo"].tolist(), ids["hi"].tolist(), strict=True)
    }


# ---- in the test ----


@dataclass(slots=True)
class Recording:
    """The log of some lives of a server, what it noted, and what its clients were told."""

    prefix: Path
    records: list[Record]
    states: dict[int, bytes]
    values: dict[int, bytes]
    ids: np.ndarray
    results: int
    mirror: Mirror


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where there is one: thousands of images are written to it."""
    shared = Path("/dev/shm")
    parent = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)


def make_recording(
    shim: Path, tmp_path: Path, *, lives: int, requests: int, sync: bool = True
) -> Recording:
    """Make a ledger and serve so many requests in each of its lives, all of it recorded.

    What the clients were told is compared with the journal on the way.
    """
    prefix, log, notes = tmp_path / "recorded", tmp_path / "log", tmp_path / "notes"
    prefix.mkdir()
    directory = prefix / "data"
    knobs = {f"SANYUAN_{name.upper()}": str(value) for name, value in KNOBS.items()}
    environment = os.environ | knobs | recorder_environment(shim, prefix, log)
    init = [sys.executable, "-m", "ledger", "init", str(directory)]
    subprocess.run(init, env=environment, check=True, stdout=subprocess.DEVNULL)
    given = ", ".join(map(repr, (str(directory), str(notes), sync)))
    program = f"from tests.crash.recorded import main; main({given})"
    traffic, mirror = Traffic(1, large_events=120), Mirror(directory, CONFIG)
    results, feed_after, ids = 0, None, []
    for _ in range(lives):
        with subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            load = Load(
                _ready_url(server.stdout), traffic, requests_max=requests, feed_after=feed_after
            )
            asyncio.run(load.run())
            server.terminate()
            server.stdout.read()
        assert server.returncode == 0
        mirror.read()
        results += mirror.compare_answers(load.answered)
        mirror.compare_seen(load.seen)
        mirror.compare_feed(load.seen)
        assert not load.unknown
        feed_after = load.feed_after
        ids += [one.events["id"] for one in load.answered if one.kind != "accounts"]
    states, values = read_notes(notes)
    records = list(read_log(log))
    return Recording(
        prefix, records, states, values, np.unique(np.concatenate(ids)), results, mirror
    )


def _ready_url(output: IO[str]) -> str:
    for line in output:
        if line.startswith("ready "):
            return line.split()[1]
    raise AssertionError("the server ended before it was ready")


def check_recorder(recording: Recording) -> None:
    """The recorder has missed nothing when all that it recorded makes the files that are there."""
    disk = Disk(recording.prefix)
    for record in recording.records:
        disk.follow(record)
    images = list(disk.images(random.Random(0), 0))
    written = next((one for one in images if one.variant == "written"), images[0])
    for path in recording.prefix.rglob("*"):
        if path.is_file() and path.name not in ("lock.mdb", "lock"):
            assert written.content[str(path.relative_to(recording.prefix))] == path.read_bytes()


_POSITION: Final = re.compile(rb'(?:Ledger-Position: |"position":")(\d+):\d+')
_ACCOUNT: Final = re.compile(rb'"id":"(\d+)","debits_pending".*?"entry_count":"?(\d+)')


def told(recording: Recording, record: Record) -> int:
    """Return the newest block that something sent to a client speaks of; NOT_MADE for none.

    A position stands in the answer to every write, in every line of a statement and every event of
    the feed; an account stands for its newest entry.
    """
    blocks = [int(found[1]) for found in _POSITION.finditer(record.payload)]
    for found in _ACCOUNT.finditer(record.payload):
        account, _ = recording.mirror.accounts[int(found[1])]
        blocks.append(account.positions[int(found[2]) - 1][0])
    return max(blocks, default=NOT_MADE)


@dataclass(slots=True)
class Verdict:
    """What became of the images."""

    told: int = 0
    """Messages to clients that spoke of a block."""
    images: int = 0
    distinct: int = 0
    failures: list[str] = field(default_factory=list)
    variants: Counter[str] = field(default_factory=Counter)


def check_images(
    recording: Recording, memory: Path, *, images_max: int, failures_max: int, workers: int = 2
) -> Verdict:
    """Recover images of cuts all over the recording and compare them; stop after so many
    failures."""
    rng, verdict = random.Random(7), Verdict()
    cuts = [place for place, record in enumerate(recording.records) if record.kind != Kind.OPENED]
    # About four images a cut; the cuts are drawn evenly from all.
    wanted = max(1, images_max // 4)
    chosen = set(cuts if len(cuts) <= wanted else rng.sample(cuts, wanted))
    disk, acknowledged = Disk(recording.prefix), NOT_MADE
    known: dict[bytes, Future[Recovered]] = {}
    waiting: list[tuple[str, int, Future[Recovered]]] = []

    def settle(down_to: int) -> None:
        while len(waiting) > down_to:
            what, floor, future = waiting.pop(0)
            problem = compare(recording, floor, future)
            if problem:
                verdict.failures.append(f"{what}: {problem}")

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        for place, record in enumerate(recording.records):
            disk.follow(record)
            if record.kind == Kind.SENT:
                block = told(recording, record)
                verdict.told += block != NOT_MADE
                acknowledged = max(acknowledged, block)
            if place not in chosen:
                continue
            for image in disk.images(rng, 2):
                verdict.images += 1
                verdict.variants[image.variant] += 1
                digest = image_digest(image)
                if digest not in known:
                    verdict.distinct += 1
                    target = memory / f"image{verdict.distinct}"
                    image.write(target)
                    go_on = verdict.distinct % GO_ON_EVERY == 0
                    known[digest] = pool.submit(recover, target / "data", recording.ids, go_on)
                what = f"cut at {place} after {record.kind.name}, {image.variant}"
                waiting.append((what, acknowledged, known[digest]))
            settle(8)
            if len(verdict.failures) >= failures_max:
                return verdict
        settle(0)
    except BrokenProcessPool:
        verdict.failures.append("a process died while it recovered an image")
    finally:
        pool.shutdown(cancel_futures=True)
    return verdict


def image_digest(image: Image) -> bytes:
    digest = blake3()
    for path, data in sorted(image.content.items()):
        # LMDB's lock files say nothing once no process has them open.
        if not path.endswith("lock.mdb"):
            digest.update(b"%s %d\n" % (path.encode(), -1 if data is None else len(data)))
            digest.update(data or b"")
    return digest.digest()


def compare(recording: Recording, acknowledged: int, future: Future[Recovered]) -> str:
    """Say what is wrong with a recovered image, or nothing."""
    found = future.result()
    if found.problem:
        return found.problem
    if found.last_block < acknowledged:
        return f"block {acknowledged} was answered, and the last is {found.last_block}"
    if found.last_block == NOT_MADE:
        return ""
    if found.state != recording.states[found.last_block]:
        return f"the state is not the one after block {found.last_block}"
    for number, value in enumerate(found.values):
        if value != recording.values[number]:
            return f"block {number} is not the one that was written"
    return ""


def report(recording: Recording, verdict: Verdict) -> None:
    """Append a line to the file that ``CRASH_REPORT`` names."""
    if REPORT:
        line = {
            "records": len(recording.records),
            "kinds": dict(Counter(record.kind.name for record in recording.records)),
            "blocks": len(recording.values),
            "results": recording.results,
            "images": verdict.images,
            "distinct_images": verdict.distinct,
            "messages": verdict.told,
            "variants": dict(verdict.variants),
            "failures": verdict.failures,
        }
        with open(REPORT, "a") as opened:
            opened.write(json.dumps(line) + "\n")


def test_power_loss(shim: Path, tmp_path: Path, memory: Path) -> None:
    recording = make_recording(shim, tmp_path, lives=2, requests=60)
    check_recorder(recording)
    assert recording.results > 300
    verdict = check_images(recording, memory, images_max=IMAGES, failures_max=5)
    report(recording, verdict)
    assert not verdict.failures
    assert verdict.images >= IMAGES // 2
    assert verdict.told > 100


def test_power_loss_without_syncs_is_noticed(shim: Path, tmp_path: Path, memory: Path) -> None:
    """With LMDB's syncs switched off the same check must fail, or it proves nothing."""
    recording = make_recording(shim, tmp_path, lives=1, requests=60, sync=False)
    check_recorder(recording)
    verdict = check_images(recording, memory, images_max=IMAGES, failures_max=5)
    report(recording, verdict)
    assert verdict.failures


@pytest.mark.long
def test_power_loss_long(shim: Path, tmp_path: Path, memory: Path) -> None:
    recording = make_recording(shim, tmp_path, lives=4, requests=120)
    check_recorder(recording)
    assert recording.results > 1500
    verdict = check_images(recording, memory, images_max=IMAGES_LONG, failures_max=20)
    report(recording, verdict)
    assert not verdict.failures
    assert verdict.distinct >= 2000
