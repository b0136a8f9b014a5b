"""Every byte of a small data directory changed once: detected, or harmless to every reply.

A child process opens the changed directory, so that a crash is seen as one. What counts as
harmless: all books, all entries, all metadata, all ids are as before, the same requests get the
same answers, and all of it is so after another start.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import queue as queue_module
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.errors import DataDamaged
from ledger.storage import directory
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.snapshot import Pace
from tests.crash.driver import CONFIG, Bank, history, script

SCRIPT = script(3, 8, account_count=60)
# One block with enough ids that older ones are written as a run.
_ACCOUNTS = [row["id"] for row in SCRIPT[0][0][1]]
SCRIPT[1].append(
    (
        "TRANSFER",
        [
            {
                "id": 10_000 + 3 * number,
                "debit_account_id": _ACCOUNTS[number % 7],
                "credit_account_id": _ACCOUNTS[7 + number % 5],
                "amount": number,
                "ledger": 1,
                "code": 1,
            }
            for number in range(600)
        ],
        {},
    )
)
POSTED = 6
IDS = [row["id"] for block in SCRIPT for _, rows, _ in block for row in rows]
AT_ONCE = Pace(pass_interval_s=0.0, threaded=False)
SAMPLE = 300
WORKERS = 2
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Nothing here depends on syncs, and thousands of directories are written."""


def open_bank(path: Path) -> Bank:
    store = LmdbStore(path, CONFIG, pace=AT_ONCE, monotonic=lambda: 0.0)
    try:
        return Bank(store)
    except BaseException:
        store.close()
        raise


@functools.cache
def original() -> tuple[dict[str, bytes], list[object]]:
    """The bytes of every file of a small directory, and every reply that it gives."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        path = Path(place) / "data"
        directory.create(path, instance=bytes(range(16)))
        bank = open_bank(path)
        for number in range(POSTED):
            bank.run(SCRIPT[: number + 1], number)
            if number in (2, 4):
                bank.store.snapshot_all(bank.core, bank.durable, bank.named_root)
        bank.store.drain()
        bank.store.close()
        files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        return files, replies(path)


def write_files(path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, data)
        os.close(descriptor)


def replies(path: Path) -> list[object]:
    """Everything that is answered by this directory, by it after two more blocks, and by it after
    another start."""
    answers: list[object] = []
    bank = open_bank(path)
    try:
        answers += [bank.books(), history(bank, IDS)]
        for number in range(POSTED, len(SCRIPT)):
            answers.append([array.tobytes() for array in bank.run(SCRIPT[: number + 1], number)[0]])
        bank.store.snapshot_all(bank.core, bank.durable, bank.named_root)
        answers += [bank.books(), history(bank, IDS)]
    finally:
        bank.store.close()
    bank = open_bank(path)
    try:
        answers += [bank.books(), history(bank, IDS)]
    finally:
        bank.store.close()
    return answers


def mask_of(place: int) -> int:
    """What the byte is changed with: one bit, mostly."""
    rng = random.Random(place)
    return 1 << rng.randrange(8) if rng.random() < 0.75 else rng.randrange(1, 256)


def examine(places: list[int], progress: object, findings: object) -> None:
    """In a child: change each byte in turn and compare the replies; note what is neither detected
    nor harmless."""
    logging.disable()  # It would say of thousands of directories what was rebuilt.
    files, expected = original()
    spread = [(name, offset) for name, data in files.items() for offset in range(len(data))]
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        path = Path(root) / "data"
        for done, place in enumerate(places):
            progress.value = done  # type: ignore[attr-defined]
            name, offset = spread[place]
            changed = bytearray(files[name])
            changed[offset] ^= mask_of(place)
            write_files(path, files | {name: bytes(changed)})
            try:
                outcome = "harmless" if replies(path) == expected else "wrong"
            except DataDamaged:
                outcome = "detected"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            findings.put((place, outcome))  # type: ignore[attr-defined]
        progress.value = len(places)  # type: ignore[attr-defined]


def outcomes(places: list[int]) -> Iterator[tuple[int, str]]:
    """Examine places in children, each of which is replaced when it dies; yield the outcome of each
    place."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    shares = [places[worker::WORKERS] for worker in range(WORKERS)]
    children: list[tuple[multiprocessing.process.BaseProcess, object, list[int]]] = []

    def start(share: list[int]) -> None:
        progress = context.Value("q", 0)
        child = context.Process(target=examine, args=(share, progress, queue), daemon=True)
        child.start()
        children.append((child, progress, share))

    for share in shares:
        if share:
            start(share)
    left = len(places)
    while left:
        try:
            yield queue.get(timeout=0.5)
            left -= 1
            continue
        except queue_module.Empty:
            pass
        for child, progress, share in list(children):
            if child.is_alive():
                continue
            children.remove((child, progress, share))
            done = progress.value  # type: ignore[attr-defined]
            if done < len(share):
                yield share[done], f"crash: the process ended with {child.exitcode}"
                left -= 1
                if share[done + 1 :]:
                    start(share[done + 1 :])
    for child, _, _ in children:
        child.join()


def check(places: list[int]) -> dict[str, int]:
    files, _ = original()
    spread = [(name, offset) for name, data in files.items() for offset in range(len(data))]
    counts: dict[str, int] = {}
    bad = []
    for place, outcome in outcomes(places):
        counts[outcome] = counts.get(outcome, 0) + 1
        if outcome not in ("detected", "harmless"):
            bad.append((*spread[place], mask_of(place), outcome))
    assert not bad, bad[:20]
    return counts


def byte_count() -> int:
    return sum(len(data) for data in original()[0].values())


def interesting() -> list[int]:
    """Places of the format file, of both meta pages' records, and of the headers of all pages in
    use."""
    files, _ = original()
    places, base = [], 0
    for name, data in files.items():
        if name.endswith("format.json"):
            places += range(base, base + len(data))
        elif name.endswith("data.mdb"):
            places += [base + page + at for page in (0, 4096) for at in range(160)]
            places += [
                base + page + at for page in range(8192, len(data), 4096) for at in range(0, 40)
            ]
        base += len(data)
    return places


def test_a_sample_of_changed_bytes():
    rng = random.Random(1)
    places = rng.sample(interesting(), SAMPLE // 2) + rng.sample(range(byte_count()), SAMPLE // 2)
    counts = check(places)
    assert counts.get("detected", 0) > SAMPLE // 20
    assert counts.get("harmless", 0) > SAMPLE // 20


@pytest.mark.long
@pytest.mark.timeout(0)
def test_every_byte_changed_once():
    counts = check(list(range(byte_count())))
    assert sum(counts.values()) == byte_count()
