"""Kills: a server is killed again and again under load, and nothing that it said turns out untrue.

Each cycle starts ``sanyuan serve``, sends again what had no answer, posts and reads over several
connections, and kills
the server by its process id at a random moment, sometimes while it starts. Then ``verify`` must be
clean, and every
answer of the cycle must agree with the journal: what was acknowledged is there once, what was
refused is not, every
balance that a reader saw is the one after that entry, every event of the feed is there and none is
left out.

``CRASH_KILLS`` and ``CRASH_KILLS_LONG`` say how many kills, ``CRASH_SEED`` which, and
``CRASH_REPORT`` names a file to
which each cycle appends a line.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from ledger import config as configuration
from ledger import layout
from ledger.storage import directory as data_directory
from ledger.storage.verify import verify
from tests.crash.load import Load, Request, Seen, Traffic, WrongAnswer
from tests.crash.mirror import Mirror, Mismatch

KILLS: Final = int(os.environ.get("CRASH_KILLS", "10"))
KILLS_LONG: Final = int(os.environ.get("CRASH_KILLS_LONG", "1000"))
SEED: Final = int(os.environ.get("CRASH_SEED", "1"))
REPORT: Final = os.environ.get("CRASH_REPORT")
DIRECTORY_KILLS: Final = 50
"""A new data directory after so many kills, so that verifying one from nothing stays cheap."""
EARLY: Final = 0.1
"""So many of the kills hit the server while it starts."""
KNOBS: Final = {
    # All that can be written in the background is written all the time.
    "recent_ids": 1 << 10,
    "snapshot_interval_ms": 20,
    "snapshot_bytes_per_second": 1 << 30,
    "write_ahead_bytes": 4 << 20,
    "disk_reserve_bytes": 0,
    "holds": 1 << 16,
}
START_WITHIN_S: Final = 60.0


class Server:
    """``sanyuan serve`` in a process of its own."""

    def __init__(self, directory: Path, log: Path, module: str = "ledger") -> None:
        environment = {f"SANYUAN_{name.upper()}": str(value) for name, value in KNOBS.items()}
        self._log = log
        self._opened = open(log, "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "serve", str(directory), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=self._opened,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )

    @property
    def output(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> str:
        """Return where it listens."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            for line in self.output.splitlines():
                if line.startswith("ready "):
                    return line.split()[1]
            assert self.process.poll() is None, f"the server ended: {self.output}"
            time.sleep(0.01)
        raise AssertionError(f"the server was not ready in time: {self.output}")

    def kill(self) -> None:
        """Kill it, wherever it is; it must not have ended by itself."""
        ended = self.process.poll()
        self.process.kill()
        self.process.wait()
        self._opened.close()
        assert ended is None, f"the server ended by itself with {ended}: {self.output}"


@dataclass(slots=True)
class Tally:
    """What a run of kills has seen."""

    kills: int = 0
    early_kills: int = 0
    directories: int = 0
    results: int = 0
    created: int = 0
    reads: int = 0
    events: int = 0
    unknown: int = 0
    unknown_effective: int = 0
    verified_entries: int = 0
    verify_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


class Cycles:
    """The kills on one data directory."""

    def __init__(self, path: Path, seed: int, tally: Tally) -> None:
        self.rng = random.Random(seed)
        self.tally = tally
        self.directory = path / "data"
        self.log = path / "log"
        path.mkdir()
        data_directory.create(self.directory)
        self.config = configuration.load(None, {}, **KNOBS)
        self.mirror = Mirror(self.directory, self.config)
        self.traffic = Traffic(seed)
        self.unknown: list[Request] = []
        self.effective: set[int] = set()
        self.feed_after: str | None = None
        self.first_block: dict[int, int] = {}
        tally.directories += 1

    def run(self) -> None:
        """One life of the server, its end, and all that must be true after it."""
        server = Server(self.directory, self.log)
        try:
            if self.rng.random() < EARLY:
                time.sleep(self.rng.uniform(0.3, 1.0))
                self.tally.early_kills += 1
                load = None
            else:
                load = Load(
                    server.wait_ready(),
                    self.traffic,
                    resend=self.unknown,
                    feed_after=self.feed_after,
                )
                asyncio.run(load.run(lambda: self._kill(server)))
        finally:
            server.kill() if server.process.returncode is None else None
        self.tally.kills += 1
        self._compare(load)
        self._verify()

    async def _kill(self, server: Server) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 0.6))
        server.kill()

    def _verify(self) -> None:
        verdict = verify(self.directory, self.config)
        assert verdict.clean, verdict.differences
        assert not verdict.notes, verdict.notes
        self.tally.verified_entries += verdict.entries
        self.tally.verify_s += verdict.seconds

    def _compare(self, load: Load | None) -> None:
        mirror, tally = self.mirror, self.tally
        first_new = len(mirror.block_hashes)
        mirror.read()
        if load is None:
            return
        tally.results += mirror.compare_answers(load.answered)
        mirror.compare_resent(load.resent, self.effective)
        tally.reads += mirror.compare_seen(load.seen)
        mirror.compare_feed(load.seen)
        tally.events += len(load.seen.events)
        self.feed_after = load.feed_after
        for request in load.answered:
            assert request.results is not None
            tally.kinds[request.kind] += 1
            tally.created += int(np.count_nonzero(request.results["status"] == layout.CREATED))
            tally.statuses.update(request.results["status"].tolist())
        self.unknown = list(load.unknown.values())
        tally.unknown += len(self.unknown)
        # A request that was sent in an earlier life too may be in any block since then.
        first = {one.number: self.first_block.get(one.number, first_new) for one in self.unknown}
        self.first_block = first
        self.effective = {
            one.number for one in self.unknown if mirror.took_effect(one, first[one.number])
        }
        tally.unknown_effective += len(self.effective)


def run_kills(path: Path, kills: int) -> Tally:
    """Kill so many times, on a new directory every so often."""
    tally = Tally()
    cycles: Cycles | None = None
    for number in range(kills):
        if number % DIRECTORY_KILLS == 0:
            cycles = Cycles(path / f"{number}", SEED * 1_000_003 + number, tally)
        assert cycles is not None
        began = time.monotonic()
        try:
            cycles.run()
        except AssertionError as error:
            error.add_note(
                f"kill {number} on {cycles.directory}; the server said: {cycles.log.read_text()}"
            )
            raise
        if REPORT:
            line = {
                "kill": number + 1,
                "seconds": round(time.monotonic() - began, 3),
                "results": tally.results,
                "created": tally.created,
                "reads": tally.reads,
                "events": tally.events,
                "unknown": tally.unknown,
                "unknown_effective": tally.unknown_effective,
                "early_kills": tally.early_kills,
                "verify_s": round(tally.verify_s, 2),
                "verified_entries": tally.verified_entries,
                "statuses": len(tally.statuses),
                "directory": {**cycles.mirror.counts},
            }
            with open(REPORT, "a") as report:
                report.write(json.dumps(line) + "\n")
    return tally


def one_life(path: Path, *, module: str = "ledger", **options: Any) -> tuple[Load, Mirror]:
    """Serve some requests, kill the server at once after the last answer, and read the journal."""
    path.mkdir()
    data_directory.create(path / "data")
    server = Server(path / "data", path / "log", module)
    try:
        load = Load(server.wait_ready(), Traffic(SEED), requests_max=60, **options)
        try:
            asyncio.run(load.run())
        except WrongAnswer:
            # The server itself may stumble over blocks that are not there yet.
            assert module != "ledger"
    finally:
        server.kill()
    mirror = Mirror(path / "data", configuration.load(None, {}, **KNOBS))
    mirror.read()
    return load, mirror


def test_an_answer_before_its_block_is_durable_is_noticed(tmp_path: Path) -> None:
    """A store that is a tenth of a second late must fail the comparison, or it proves nothing."""
    load, mirror = one_life(
        tmp_path / "hasty", module="tests.crash.hasty", readers=0, with_feed=False
    )
    assert load.answered
    with pytest.raises(Mismatch, match=r"was answered at .* which is not there"):
        mirror.compare_answers(load.answered)


def test_every_wrong_answer_is_noticed(tmp_path: Path) -> None:
    """Answers that were right, each made wrong in one way."""
    load, mirror = one_life(tmp_path / "life")
    seen, answered = load.seen, load.answered
    mirror.compare_answers(answered)
    mirror.compare_seen(seen)
    pristine = copy.deepcopy(mirror)
    mirror.compare_feed(seen)

    def refuse(results: np.ndarray, index: int) -> None:
        results["status"][index] = layout.STATUS_NUMBERS["TRANSFER"]["exceeds_credits"]

    def accept(results: np.ndarray, index: int) -> None:
        results["status"][index] = layout.CREATED

    def shift(results: np.ndarray, index: int) -> None:
        results["timestamp"][index] += 1

    for doctor, was in ((refuse, True), (shift, True), (accept, False)):
        request, index = next(
            (one, int(place))
            for one in answered
            if one.kind == "transfers" and not one.dry_run and one.results is not None
            for place in np.flatnonzero((one.results["status"] == layout.CREATED) == was)[:1]
        )
        doctored = copy.deepcopy(request)
        doctor(doctored.results, index)
        with pytest.raises(Mismatch):
            mirror.compare_answers([doctored])
    request = next(one for one in answered if one.kind == "transfers" and len(one.events) > 50)
    doctored = copy.deepcopy(request)
    doctored.events["amount"]["lo"][7] += 1
    with pytest.raises(Mismatch, match="another amount"):
        mirror.compare_answers([doctored])
    with pytest.raises(Mismatch, match="again"):
        mirror.compare_resent([request], {request.number})

    account, line, event = seen.accounts[-1], seen.lines[-1], seen.events[-1]
    balance = next(one for one in seen.balances if any(one.sums))
    wrong = (*account.sums[:3], account.sums[3] + 1)
    for changed in (
        Seen(accounts=[replace(account, sums=wrong)]),
        Seen(accounts=[replace(account, entry_count=account.entry_count + 1)]),
        Seen(accounts=[replace(account, entry_count=10**6)]),
        Seen(balances=[replace(balance, sums=(0, 0, 0, 0))]),
        Seen(lines=[replace(line, amount=line.amount + 1)]),
        Seen(lines=[replace(line, entry_number=line.entry_number + 1)]),
        Seen(lines=[replace(line, transfer_id=1)]),
    ):
        with pytest.raises(Mismatch):
            mirror.compare_seen(changed)
    events = seen.events
    for fed in (
        [*events[:3], *events[4:]],
        [*events[:3], events[2], *events[3:]],
        [*events[:-1], replace(event, amount=event.amount, debit_sums=(1, 2, 3, 4))],
        [*events[:-1], replace(event, transfer_id=1)],
    ):
        with pytest.raises(Mismatch):
            copy.deepcopy(pristine).compare_feed(Seen(events=fed))
    absent = replace(event, position=(10**6, 0))
    with pytest.raises(Mismatch):
        mirror.compare_feed(Seen(events=[absent]))
    mirror.block_hashes[-1] = bytes(32)
    with pytest.raises(Mismatch, match="another one"):
        mirror.read()
    mirror.block_hashes.append(bytes(32))
    with pytest.raises(Mismatch, match="is gone"):
        mirror.read()


def check_tally(tally: Tally, kills: int) -> None:
    """The run was worth something: every kind was posted, holds, burned ids and readers were
    there."""
    assert tally.kills == kills
    assert tally.results > 20 * kills
    assert tally.reads > 20 * kills
    assert tally.events > 10 * kills


def test_kills(tmp_path: Path) -> None:
    tally = run_kills(tmp_path, KILLS)
    check_tally(tally, KILLS)


@pytest.mark.long
def test_kills_long(tmp_path: Path) -> None:
    tally = run_kills(tmp_path, KILLS_LONG)
    check_tally(tally, KILLS_LONG)
    assert tally.unknown_effective > 0
    assert tally.unknown > tally.unknown_effective
    assert tally.early_kills > 0
    assert set(tally.kinds) == {
        "accounts",
        "transfers",
        "settings",
        "definitions",
        "business_date",
    }
    names = layout.STATUS_NUMBERS["TRANSFER"]
    for name in (
        "exists",
        "id_already_failed",
        "linked_event_failed",
        "pending_transfer_expired",
        "pending_transfer_already_posted",
        "exceeds_credits",
        "debit_account_not_found",
        "debit_account_already_closed",
    ):
        assert tally.statuses[names[name]] > 0, name
