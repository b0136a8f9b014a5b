"""What each part of a block costs, for 8190 transfers at a time: ``pytest bench``.

Each figure is for a request of 8190; divide by that for a transfer. The whole is measured by
``sanyuan bench engine``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._merkle import block_leaves
from ledger._pack import BlockView, encode_block
from ledger.bench.generate import Generator
from ledger.config import Config
from ledger.state import Chain
from ledger.storage.memory import MemoryStore

ACCOUNTS = 100_000
COUNT = layout.REQUEST_EVENTS_MAX
ROUNDS = 30


class Parts:
    """A core with accounts, and the steps of a block one by one."""

    def __init__(self, distribution: str) -> None:
        self.generator = Generator(accounts=ACCOUNTS, distribution=distribution)
        self.store = MemoryStore(Config())
        self.core = Core(holds_max=1 << 20)
        self.store.recover(self.core)
        self.chain = Chain(bytes(16), bytes(32))
        self.block = Block()
        self.results = np.zeros(COUNT, layout.RESULT)
        events = np.zeros(COUNT, layout.ACCOUNT)
        for start in range(0, ACCOUNTS, COUNT):
            part = events[: min(COUNT, ACCOUNTS - start)]
            self.generator.accounts(part, start)
            self.begin()
            self.core.create_accounts(
                part, self.core.last_timestamp + len(part), self.results[: len(part)]
            )
            self.finish()

    def begin(self) -> None:
        self.core.open_block(self.block, self.core.block_number + 1)

    def finish(self) -> None:
        self.core.close_block()
        self.core.hash_block(self.block, bytes(32))

    def transfers(self) -> np.ndarray:
        events = np.zeros(COUNT, layout.TRANSFER)
        self.generator.transfers(events)
        return events

    def decide(self, events: np.ndarray) -> None:
        self.core.create_transfers(events, self.core.last_timestamp + COUNT, self.results)

    def decided(self) -> Block:
        self.begin()
        self.decide(self.transfers())
        self.finish()
        assert (self.results["status"] == layout.CREATED).all()
        return self.block


@pytest.fixture(params=["uniform", "zipf", "hot"], scope="module")
def parts(request: pytest.FixtureRequest) -> Parts:
    return Parts(request.param)


def measured(
    benchmark: Any,
    step: Callable[..., Any],
    before: Callable[[], Any] | None = None,
    after: Callable[[], Any] | None = None,
) -> None:
    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (before(),) if before else (), {}

    benchmark.extra_info["transfers"] = COUNT
    benchmark.pedantic(
        step,
        setup=setup,
        teardown=(lambda *_: after()) if after else None,
        rounds=ROUNDS,
        warmup_rounds=2,
    )


def test_draw(benchmark: Any, parts: Parts) -> None:
    events = np.zeros(COUNT, layout.TRANSFER)
    measured(benchmark, lambda: parts.generator.transfers(events))


def test_resolve(benchmark: Any, parts: Parts) -> None:
    measured(
        benchmark,
        lambda events: parts.store.resolve(parts.core, events, {}),
        before=parts.transfers,
    )


def test_decide(benchmark: Any, parts: Parts) -> None:
    def before() -> np.ndarray:
        parts.begin()
        return parts.transfers()

    measured(benchmark, parts.decide, before=before, after=parts.finish)


def test_hash(benchmark: Any, parts: Parts) -> None:
    def before() -> Block:
        parts.begin()
        parts.decide(parts.transfers())
        parts.core.close_block()
        return parts.block

    measured(benchmark, lambda block: parts.core.hash_block(block, bytes(32)), before=before)


def test_leaves(benchmark: Any, parts: Parts) -> None:
    measured(
        benchmark,
        lambda block: block_leaves(block.entries, bytes(32)),
        before=parts.decided,
    )


def test_pack(benchmark: Any, parts: Parts) -> None:
    def before() -> tuple[Block, bytes]:
        block = parts.decided()
        return block, parts.chain.header(block)

    measured(benchmark, lambda pair: encode_block(*pair), before=before)


def test_unpack(benchmark: Any, parts: Parts) -> None:
    def before() -> BlockView:
        block = parts.decided()
        return BlockView(encode_block(block, parts.chain.header(block)))

    measured(benchmark, lambda view: view.entries(), before=before)
