"""What the commitments cost: processor time of a block's hashing for each transfer, and the time of
a state root, with every kernel that this processor runs.

Both are measured on a core alone. A block is hashed right after it was decided, as in the engine,
so its accounts are as far away in the cache as they are there. The kernels take turns, and each
figure is a median.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger import _merkle, layout
from ledger._block import Block
from ledger._core import Core
from ledger._state_tree import StateBuilder
from ledger.bench import measure
from ledger.bench.engine_run import require_created
from ledger.bench.generate import Generator

BLOCK_ENTRIES: Final = (layout.REQUEST_EVENTS_MAX, layout.BLOCK_ENTRIES_MAX)
LANES: Final = (16, 8, 4, 1)
"""AVX-512, AVX2, SSE 4.1 (or any other 128-bit vectors), plain C."""
STEP_ROWS: Final = 8192
"""Accounts copied in one step of a capture."""

Progress = Callable[[str, int, int], None]


def available_lanes() -> list[int]:
    """Return the lane counts of the kernels that this processor runs, widest first."""
    return [lanes for lanes in LANES if lanes <= _merkle.widest_lanes()]


class _Ledger:
    """A core with accounts, and a source of transfers between them."""

    def __init__(self, accounts: int, progress: Progress) -> None:
        self._generator = Generator(accounts=accounts)
        self.core = Core(holds_max=1 << 10)
        self.core.finish_replay()
        self._block = Block()
        self._random = np.random.default_rng(1)
        events = np.zeros(layout.REQUEST_EVENTS_MAX, layout.ACCOUNT)
        for start in range(0, accounts, len(events)):
            part = events[: min(len(events), accounts - start)]
            self._generator.accounts(part, start)
            self.core.open_block(self._block, self.core.block_number + 1)
            self._create("accounts", part)
            self.core.close_block()
            self.hash()
            progress("accounts", start + len(part), accounts)
        self._events = np.zeros(layout.REQUEST_EVENTS_MAX, layout.TRANSFER)

    def _create(self, kind: str, events: np.ndarray) -> None:
        core = self.core
        results = np.zeros(len(events), layout.RESULT)
        getattr(core, f"create_{kind}")(events, core.last_timestamp + len(events), results)
        require_created(kind, results)

    def decide(self, entries: int) -> None:
        """Decide a block of so many transfers."""
        self.core.open_block(self._block, self.core.block_number + 1)
        while entries:
            part = self._events[: min(len(self._events), entries)]
            self._generator.transfers(part)
            self._create("transfers", part)
            entries -= len(part)
        self.core.close_block()

    def hash(self) -> int:
        """Hash the block that was decided; return the processor time of it, ns."""
        seed = self._random.bytes(32)
        started = time.thread_time_ns()
        self.core.hash_block(self._block, seed)
        return time.thread_time_ns() - started

    def parts(self) -> tuple[int, int]:
        """Hash the last block's leaves, and their root, once more; return the time of each, ns."""
        entries = self._block.entries
        started = time.thread_time_ns()
        leaves = _merkle.block_leaves(entries, self._block.seed)
        hashed = time.thread_time_ns()
        _merkle.tree_root(leaves)
        return hashed - started, time.thread_time_ns() - hashed


@dataclass(slots=True)
class _Clocks:
    """Processor time of this thread and elapsed time, seconds, of what is wrapped in ``with``."""

    cpu: float = 0.0
    elapsed: float = 0.0

    def __enter__(self) -> None:
        self.cpu -= time.thread_time()
        self.elapsed -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.thread_time()
        self.elapsed += time.perf_counter()


def _state_root(core: Core, previous_block: int) -> tuple[_Clocks, _Clocks, bytes]:
    """Make one state root; return the times of the capture and of the build, and the root."""
    capture, build = _Clocks(), _Clocks()
    builder = StateBuilder(previous_block)
    with capture:
        core.begin_capture()
    while True:
        with capture:
            rows = core.capture_step(STEP_ROWS)
        if not len(rows):
            break
        with build:
            builder.add(rows)
            builder.take_changed()
    with build:
        root = builder.finish(core.block_number).root
    return capture, build, root


def run(accounts: int, repeats: int, progress: Progress) -> dict[str, Any]:
    """Measure and return the figures; the kernel that was chosen before is chosen again."""
    chosen = _merkle.lane_count()
    try:
        return _measured(accounts, repeats, progress)
    finally:
        _merkle.choose_lanes(chosen)


def _measured(accounts: int, repeats: int, progress: Progress) -> dict[str, Any]:
    kernels = available_lanes()
    ledger = _Ledger(accounts, progress)
    times: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for repeat in range(repeats):
        for entries in BLOCK_ENTRIES:
            for lanes in kernels:
                _merkle.choose_lanes(lanes)
                ledger.decide(entries)
                times[entries, lanes].append((ledger.hash(), *ledger.parts()))
        progress("blocks", repeat + 1, repeats)
    roots: dict[tuple[str, int], list[tuple[_Clocks, _Clocks]]] = defaultdict(list)
    made = set()
    # A root after which nothing changed, and one for which every account is handed on to be kept.
    for changed, previous in (("none", ledger.core.block_number), ("all", -1)):
        for repeat in range(repeats):
            for lanes in kernels:
                _merkle.choose_lanes(lanes)
                capture, build, root = _state_root(ledger.core, previous)
                roots[changed, lanes].append((capture, build))
                made.add(root)
            progress(f"state roots, changed: {changed}", repeat + 1, repeats)
    if len(made) != 1:
        raise AssertionError("the kernels made different state roots")
    return {
        "scenario": "commit",
        "accounts": accounts,
        "repeats": repeats,
        "blocks": [_block_figures(*key, samples) for key, samples in times.items()],
        "state_roots": [_root_figures(*key, samples) for key, samples in roots.items()],
        "machine": measure.machine(Path.cwd()),
    }


def _block_figures(
    entries: int, lanes: int, samples: list[tuple[int, int, int]]
) -> dict[str, int | float]:
    whole, leaves, root = (
        statistics.median(sample[part] for sample in samples) / entries for part in range(3)
    )
    return {
        "lanes": lanes,
        "entries": entries,
        "leaves_ns": round(leaves, 1),
        "root_ns": round(root, 1),
        "chains_ns": round(whole - leaves - root, 1),
        "commitment_ns": round(whole, 1),
    }


def _root_figures(
    changed: str, lanes: int, samples: list[tuple[_Clocks, _Clocks]]
) -> dict[str, int | float | str]:
    def median(of: Callable[[_Clocks, _Clocks], float]) -> float:
        return round(statistics.median(of(*sample) for sample in samples), 4)

    return {
        "lanes": lanes,
        "changed": changed,
        "capture_cpu_seconds": median(lambda capture, build: capture.cpu),
        "build_cpu_seconds": median(lambda capture, build: build.cpu),
        "cpu_seconds": median(lambda capture, build: capture.cpu + build.cpu),
        "elapsed_seconds": median(lambda capture, build: capture.elapsed + build.elapsed),
    }
