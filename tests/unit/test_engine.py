"""The engine over the memory store: what is answered when, and what happens when writes fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger._merkle import block_hash
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import DiskFailed, LedgerError, RequestRefused, Unavailable
from ledger.storage.memory import MemoryDisk, MemoryStore

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
PENDING = layout.flag_mask("TRANSFER", "pending")
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")


class Clock:
    """A wall clock and a monotonic one that move only when told."""

    def __init__(self) -> None:
        self.wall_ns = START
        self.monotonic_ns = 5 * SECOND

    def advance(self, seconds: float) -> None:
        self.wall_ns += int(seconds * SECOND)
        self.monotonic_ns += int(seconds * SECOND)


class Gate:
    """A hook that holds up every append until it is opened, or fails it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.failure: BaseException | None = None

    def __call__(self, step: str, when: str) -> None:
        if step == "append" and when == "before":
            self.reached.set()
            assert self.open.wait(10)
            if self.failure is not None:
                raise self.failure


class Bench:
    """An engine on a memory store with a gate and a clock of its own."""

    def __init__(self, disk: MemoryDisk | None = None, clock: Clock | None = None, **knobs: int):
        self.disk = disk or MemoryDisk()
        self.clock = clock or Clock()
        self.gate = Gate()
        self.config = Config(**{"seal_interval_ms": 60_000, **knobs})
        self.store = MemoryStore(self.config, disk=self.disk, hook=self.gate)
        self.fatal: list[BaseException] = []
        self.engine = Engine(
            self.store,
            self.config,
            clock_ns=lambda: self.clock.wall_ns,
            monotonic_ns=lambda: self.clock.monotonic_ns,
            random_bytes=lambda size: bytes(size),
            on_fatal=self.fatal.append,
        )

    def submit(self, kind: str, *rows: dict[str, Any], **options: Any) -> Future[Any]:
        dtype = {"accounts": layout.ACCOUNT, "transfers": layout.TRANSFER}[kind]
        return self.engine.submit(kind, layout.record_array(dtype, list(rows)), **options)

    def post(self, kind: str, *rows: dict[str, Any], **options: Any) -> Any:
        return self.submit(kind, *rows, **options).result(10)

    def balance(self, account_id: int) -> int:
        ids = np.array([layout.from_int(account_id)], layout.U128)
        accounts, found = self.engine.read(lambda core: core.lookup_accounts(ids)).result(10)
        assert found[0]
        return layout.to_int(accounts[0]["debits_posted"])


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def started(*arguments: Any, **options: Any) -> Bench:
        bench = Bench(*arguments, **options)
        benches.append(bench)
        bench.engine.start()
        return bench

    yield started
    for bench in benches:
        bench.gate.open.set()
        bench.engine.stop()
        bench.store.close()


def account(account_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": account_id, "ledger": 1, "code": 1, **fields}


def transfer(transfer_id: int, amount: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": transfer_id,
        "debit_account_id": 1,
        "credit_account_id": 2,
        "amount": amount,
        "ledger": 1,
        "code": 1,
        **fields,
    }


def statuses(reply: Any) -> list[str]:
    return [layout.STATUS_NAMES["TRANSFER"][int(s)] for s in reply.results["status"]]


def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_reply_has_results_position_and_time(make: Callable[..., Bench]) -> None:
    bench = make()
    first = bench.post("accounts", account(1), account(2))
    assert first.position == layout.position(0, 1)
    assert first.results["timestamp"].tolist() == [first.timestamp - 1, first.timestamp]
    second = bench.post("transfers", transfer(7), transfer(8), transfer(7))
    assert statuses(second) == ["created", "created", "exists"]
    assert second.position == layout.position(1, 1)
    assert second.results["timestamp"][2] == second.results["timestamp"][0]
    assert bench.engine.durable_position == second.position
    assert bench.balance(1) == 2


def test_nothing_leaves_before_its_block_is_durable(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    written = bench.submit("transfers", transfer(7, 5))
    assert bench.gate.reached.wait(5)
    refused = bench.submit("transfers", transfer(8, code=0))
    repeated = bench.submit("transfers", transfer(7, 5))
    dry = bench.submit("transfers", transfer(9), dry_run=True)
    read = bench.engine.read(lambda core: core.lookup_accounts(one(1))[0][0]["debits_posted"])
    found = bench.engine.find_transfers([7])
    time.sleep(0.15)
    waiting = (written, refused, repeated, dry, read, found)
    assert not any(future.done() for future in waiting)
    assert bench.engine.durable_position == layout.position(0, 1)
    bench.gate.open.set()
    assert statuses(written.result(5)) == ["created"]
    assert statuses(refused.result(5)) == ["code_must_not_be_zero"]
    assert statuses(repeated.result(5)) == ["exists"]
    assert statuses(dry.result(5)) == ["created"]
    assert layout.to_int(read.result(5)) == 5
    assert found.result(5)[1].tolist() == [True]
    assert repeated.result().position == written.result().position


def one(account_id: int) -> np.ndarray:
    return np.array([layout.from_int(account_id)], layout.U128)


def test_requests_that_wait_become_one_block(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    first = bench.submit("transfers", transfer(100))
    assert bench.gate.reached.wait(5)
    waiting = [bench.submit("transfers", transfer(200 + i)) for i in range(50)]
    bench.gate.open.set()
    replies = [future.result(5) for future in (first, *waiting)]
    assert len(bench.disk.blocks) == 3
    times = [int(reply.results["timestamp"][0]) for reply in replies]
    assert times == sorted(set(times))
    assert [reply.position for reply in replies[1:]] == [layout.position(2, i) for i in range(50)]


def test_large_blocks_are_decided_ahead_of_the_disk(make: Callable[..., Bench]) -> None:
    bench = make(blocks_in_flight=3)
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    rows = [[transfer(1 + i * 2000 + j) for j in range(2000)] for i in range(5)]
    futures = []
    for number, batch in enumerate(rows):
        futures.append(bench.submit("transfers", *batch))
        if number < 3:
            eventually(lambda n=number: bench.engine.counters()["blocks_in_flight"] == n + 1)
    time.sleep(0.1)
    assert bench.engine.counters()["blocks_in_flight"] == 3
    # What is decided and not durable is known to the next blocks.
    again = bench.submit("transfers", *rows[0][:3])
    bench.gate.open.set()
    assert all(set(statuses(future.result(5))) == {"created"} for future in futures)
    assert statuses(again.result(5)) == ["exists"] * 3


def test_block_without_entries_is_not_written(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    assert statuses(bench.post("transfers", transfer(7, ledger=0))) == ["ledger_must_not_be_zero"]
    assert statuses(bench.post("transfers", transfer(8), dry_run=True)) == ["created"]
    assert len(bench.post("transfers").results) == 0
    assert len(bench.disk.blocks) == 1
    assert statuses(bench.post("transfers", transfer(8))) == ["created"]
    assert len(bench.disk.blocks) == 2


def test_blocks_are_one_chain_of_hashes_across_restarts(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", transfer(7))
    bench.engine.stop()
    again = make(bench.disk, bench.clock)
    assert again.engine.durable_position == layout.position(1, 0)
    assert statuses(again.post("transfers", transfer(7), transfer(8))) == ["exists", "created"]
    headers = [bytes(value[:256]) for value in bench.disk.blocks]
    previous = bytes(32)
    for number, header in enumerate(headers):
        row = np.frombuffer(header, layout.BLOCK_HEADER)[0]
        assert row["number"] == number
        assert row["previous_hash"].tobytes() == previous
        assert row["instance"].tobytes() == bench.disk.instance
        previous = block_hash(header)
    assert len(headers) == 3


def test_failed_write_fails_everything_pending_and_stops(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    bench.gate.failure = DiskFailed("the disk went away")
    written = bench.submit("transfers", transfer(7))
    assert bench.gate.reached.wait(5)
    waiting = bench.submit("transfers", transfer(8))
    read = bench.engine.read(lambda core: core.account_count)
    bench.gate.open.set()
    for future in (written, waiting, read):
        with pytest.raises(DiskFailed, match="the disk went away"):
            future.result(5)
    eventually(lambda: len(bench.fatal) == 1)
    assert isinstance(bench.fatal[0], DiskFailed)
    with pytest.raises(Unavailable, match="the disk went away"):
        bench.submit("transfers", transfer(9))
    assert bench.engine.reasons_not_ready()[0]["code"] == "failed"
    assert not bench.engine.wait_durable(layout.position(1, 0), 5)
    assert len(bench.disk.blocks) == 1


def test_failure_after_the_write_is_recovered(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))

    def fail_after(step: str, when: str) -> None:
        if (step, when) == ("append", "after"):
            raise DiskFailed("no answer from the disk")

    bench.store._journal._hook = fail_after
    with pytest.raises(DiskFailed):
        bench.post("transfers", transfer(7))
    bench.engine.stop()
    again = make(bench.disk, bench.clock)
    assert statuses(again.post("transfers", transfer(7))) == ["exists"]


def test_bug_in_the_core_stops_the_engine(make: Callable[..., Bench]) -> None:
    bench = make()

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("a bug")

    bench.store.insert_ids = broken  # type: ignore[method-assign]
    future = bench.submit("accounts", account(1))
    with pytest.raises(LedgerError, match="a bug"):
        future.result(5)
    eventually(lambda: len(bench.fatal) == 1)
    assert bench.disk.blocks == []


def test_full_pool_turns_requests_away(make: Callable[..., Bench]) -> None:
    bench = make(queue_requests=3)
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    first = bench.submit("transfers", transfer(1))
    assert bench.gate.reached.wait(5)
    waiting = [bench.submit("transfers", transfer(2 + i)) for i in range(3)]
    with pytest.raises(Unavailable) as raised:
        bench.submit("transfers", transfer(9))
    assert raised.value.code == "queue_full"
    assert raised.value.retry_after_s >= 1
    with pytest.raises(Unavailable):
        bench.engine.read(lambda core: None)
    bench.gate.open.set()
    assert all(statuses(future.result(5)) == ["created"] for future in (first, *waiting))
    assert statuses(bench.post("transfers", transfer(9))) == ["created"]


def test_pool_counts_events(make: Callable[..., Bench]) -> None:
    bench = make(queue_events=8190)
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    first = bench.submit("transfers", transfer(1))
    assert bench.gate.reached.wait(5)
    rows = np.zeros(1000, layout.TRANSFER)
    taken = bench.engine.submit("transfers", rows)
    with pytest.raises(Unavailable):
        bench.engine.submit("transfers", np.zeros(8190, layout.TRANSFER))
    bench.gate.open.set()
    first.result(5)
    assert set(statuses(taken.result(5))) == {"id_must_not_be_zero"}


def test_open_holds_have_a_maximum(make: Callable[..., Bench]) -> None:
    bench = make(holds=2)
    bench.post("accounts", account(1), account(2))
    assert statuses(bench.post("transfers", *(transfer(i, flags=PENDING) for i in (1, 2)))) == [
        "created",
        "created",
    ]
    with pytest.raises(Unavailable) as raised:
        bench.post("transfers", transfer(3, flags=PENDING))
    assert raised.value.code == "holds_full"
    assert statuses(bench.post("transfers", transfer(4, pending_id=1, flags=POST))) == ["created"]
    assert statuses(bench.post("transfers", transfer(3, flags=PENDING))) == ["created"]


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (np.zeros(8191, layout.TRANSFER), RequestRefused),
        (np.zeros(3, layout.ACCOUNT), TypeError),
        (np.zeros(8, layout.TRANSFER)[::2], TypeError),
        (np.zeros((2, 2), layout.TRANSFER), TypeError),
    ],
)
def test_malformed_requests_are_refused_at_once(
    make: Callable[..., Bench], events: np.ndarray, error: type[Exception]
) -> None:
    bench = make()
    with pytest.raises(error):
        bench.engine.submit("transfers", events)
    assert len(bench.post("accounts", account(1)).results) == 1


def test_due_holds_expire_without_requests(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", transfer(7, flags=PENDING, timeout=3), transfer(8, flags=PENDING))
    bench.clock.advance(2.9)
    time.sleep(0.15)
    assert len(bench.disk.blocks) == 2
    bench.clock.advance(0.2)
    eventually(lambda: len(bench.disk.blocks) == 3)
    assert bench.engine.counters()["expiries"] == 1
    assert statuses(bench.post("transfers", transfer(9, pending_id=7, flags=POST))) == [
        "pending_transfer_expired"
    ]
    assert bench.engine.read(lambda core: core.hold_count).result(5) == 1


def test_expiries_come_before_the_requests_of_their_block(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", *(transfer(i, flags=PENDING, timeout=1) for i in range(1, 41)))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    held = bench.submit("transfers", transfer(100))
    assert bench.gate.reached.wait(5)
    bench.clock.advance(2)
    after = bench.submit("transfers", transfer(200))
    bench.gate.open.set()
    held.result(5)
    reply = after.result(5)
    assert reply.position == layout.position(3, 40)
    with bench.engine.reader() as (reader, limit_block):
        entries = reader.block(3).entries()
        assert limit_block == 3
    kinds = entries["kind"].tolist()
    assert kinds == [layout.ENTRY_KINDS["expiry"][0]] * 40 + [layout.ENTRY_KINDS["transfer"][0]]
    times = entries["record"]["timestamp"].tolist()
    assert times == sorted(set(times))


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_clock_jump_stops_posting_and_expiry_until_confirmed(
    make: Callable[..., Bench], step_s: int
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", transfer(7, flags=PENDING, timeout=60))
    bench.clock.wall_ns += step_s * SECOND
    eventually(lambda: bench.engine.reasons_not_ready() != [])
    assert bench.engine.reasons_not_ready()[0]["code"] == "clock_jumped"
    with pytest.raises(Unavailable) as raised:
        bench.submit("transfers", transfer(8))
    assert raised.value.code == "clock_jumped"
    assert bench.balance(1) == 0
    time.sleep(0.15)
    assert bench.engine.counters()["expiries"] == 0
    bench.engine.confirm_clock()
    eventually(lambda: bench.engine.reasons_not_ready() == [])
    before = bench.engine.durable_timestamp
    reply = bench.post("transfers", transfer(8))
    assert statuses(reply) == ["created"]
    assert reply.timestamp > before
    if step_s > 0:
        eventually(lambda: bench.engine.counters()["expiries"] == 1)


def test_clock_set_right_needs_no_confirmation(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.clock.wall_ns += 3600 * SECOND
    eventually(lambda: bench.engine.reasons_not_ready() != [])
    bench.clock.wall_ns -= 3600 * SECOND
    eventually(lambda: bench.engine.reasons_not_ready() == [])
    assert bench.post("transfers", transfer(1)).timestamp < START + SECOND


def test_waiting_requests_are_turned_away_by_a_clock_jump(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    held = bench.submit("transfers", transfer(1))
    assert bench.gate.reached.wait(5)
    waiting = bench.submit("transfers", transfer(2))
    bench.clock.wall_ns += 3600 * SECOND
    bench.gate.open.set()
    assert statuses(held.result(5)) == ["created"]
    with pytest.raises(Unavailable):
        waiting.result(5)


def test_clock_behind_the_last_block_is_not_ready(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.engine.stop()
    bench.clock.wall_ns -= 2 * SECOND
    again = make(bench.disk, bench.clock)
    assert again.engine.reasons_not_ready()[0]["code"] == "clock_jumped"
    with pytest.raises(Unavailable):
        again.submit("transfers", transfer(1))
    bench.clock.advance(3)
    eventually(lambda: again.engine.reasons_not_ready() == [])
    assert statuses(again.post("transfers", transfer(1))) == ["created"]


def test_clock_far_behind_the_last_block_needs_a_confirmation(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    last = bench.engine.durable_timestamp
    bench.engine.stop()
    bench.clock.wall_ns -= 3600 * SECOND
    again = make(bench.disk, bench.clock)
    assert again.engine.reasons_not_ready()[0]["code"] == "clock_jumped"
    again.engine.confirm_clock()
    eventually(lambda: again.engine.reasons_not_ready() == [])
    reply = again.post("transfers", transfer(1), transfer(2))
    assert statuses(reply) == ["created", "created"]
    assert reply.timestamp == last + 2


def test_small_steps_of_the_clock_are_harmless(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    first = bench.post("transfers", transfer(1))
    bench.clock.wall_ns -= 5_000_000
    second = bench.post("transfers", transfer(2))
    assert second.timestamp == first.timestamp + 1


def test_posting_stops_while_the_disk_has_no_reserve(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    allowed = False
    bench.store.posting_allowed = lambda: allowed  # type: ignore[method-assign]
    bench.clock.advance(1)
    eventually(lambda: bench.engine.reasons_not_ready() != [])
    with pytest.raises(Unavailable) as raised:
        bench.submit("transfers", transfer(1))
    assert raised.value.code == "disk_nearly_full"
    assert bench.balance(1) == 0
    allowed = True
    bench.clock.advance(1)
    eventually(lambda: bench.engine.reasons_not_ready() == [])
    assert statuses(bench.post("transfers", transfer(1))) == ["created"]


def test_read_that_fails_fails_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    future = bench.engine.read(lambda core: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result(5)
    assert bench.engine.read(lambda core: core.account_count).result(5) == 0


def test_stop_answers_what_waits_and_takes_no_more(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    first = bench.submit("transfers", transfer(1))
    assert bench.gate.reached.wait(5)
    waiting = [bench.submit("transfers", transfer(2 + i)) for i in range(20)]
    stopping = threading.Thread(target=bench.engine.stop)
    stopping.start()
    eventually(lambda: bench.engine.reasons_not_ready() != [])
    with pytest.raises(Unavailable):
        bench.submit("transfers", transfer(99))
    bench.gate.open.set()
    stopping.join(5)
    assert not stopping.is_alive()
    assert all(statuses(future.result(0)) == ["created"] for future in (first, *waiting))
    assert bench.engine.reasons_not_ready()[0]["code"] == "stopping"


def test_engine_that_is_not_started_says_recovering() -> None:
    bench = Bench()
    assert bench.engine.reasons_not_ready()[0]["code"] == "recovering"
    with pytest.raises(Unavailable) as raised:
        bench.submit("transfers", transfer(1))
    assert raised.value.code == "recovering"
    bench.engine.stop()


async def test_replies_of_a_block_reach_a_loop_in_one_call(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    original = loop.call_soon_threadsafe

    def counted(callback: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(callback)
        return original(callback, *arguments, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    blocks_before = len(bench.disk.blocks)
    rows = [layout.record_array(layout.TRANSFER, [transfer(1 + i)]) for i in range(500)]
    replies = await asyncio.gather(
        *(bench.engine.submit_async("transfers", events) for events in rows)
    )
    assert all(statuses(reply) == ["created"] for reply in replies)
    assert len(calls) == len(bench.disk.blocks) - blocks_before
    assert len(calls) < 100


async def test_waiting_for_a_position(make: Callable[..., Bench]) -> None:
    bench = make()
    wanted = layout.position(1, 0)
    waiting = bench.engine.wait_durable_async(wanted)
    bench.post("accounts", account(1), account(2))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not bench.engine.wait_durable(wanted, 0.01)
    bench.post("transfers", transfer(1), transfer(2))
    assert await asyncio.wait_for(waiting, 5) == layout.position(1, 1)
    assert bench.engine.wait_durable(wanted, 0)
    assert await bench.engine.wait_durable_async(wanted) == layout.position(1, 1)
    never = bench.engine.wait_durable_async(layout.position(9, 0))
    bench.engine.stop()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(never, 5)


def test_imported_account_must_not_have_the_time_of_a_stored_transfer(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    imported = layout.flag_mask("ACCOUNT", "imported")
    imported_transfer = layout.flag_mask("TRANSFER", "imported")
    bench.post(
        "accounts",
        account(1, flags=imported, timestamp=1000),
        account(2, flags=imported, timestamp=1001),
    )
    bench.post("transfers", transfer(1, flags=imported_transfer, timestamp=5000))
    reply = bench.post("accounts", account(3, flags=imported, timestamp=5000))
    names = layout.STATUS_NAMES["ACCOUNT"]
    assert names[int(reply.results["status"][0])] == "imported_event_timestamp_must_not_regress"
    reply = bench.post("accounts", account(3, flags=imported, timestamp=5001))
    assert names[int(reply.results["status"][0])] == "created"


def test_counters_add_up(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", transfer(1), transfer(2, ledger=0))
    counters = bench.engine.counters()
    assert counters["requests"] == 2
    assert counters["events"] == 4
    assert counters["refusals"] == 1
    assert counters["entries"] == 3
    assert counters["blocks"] == 2
    assert sum(counters["latency_buckets"]) == 2
    assert counters["block_bytes"] == sum(map(len, bench.disk.blocks))
    assert counters["durable_position"] == layout.position(1, 0)
