"""The kill: what was acknowledged before it, and what is there after the restart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from rich.progress import Progress

from ledger import layout
from ledger.cli.console import money
from ledger.cli.demo.day import EMPLOYER_IDS, EMPLOYERS, SALARY, Day, transfers, trial_balance
from ledger.cli.process import ServerProcess
from ledger.client import Client, ClientError, Records

SMALL_REQUEST: Final = 250
SMALL_REQUESTS_IN_FLIGHT: Final = 16


@dataclass(slots=True)
class Crash:
    """What was posted around the kill: requests that were acknowledged, and those without an
    answer.
    """

    acknowledged: list[Records] = field(default_factory=list)
    unanswered: list[Records] = field(default_factory=list)

    def count(self, which: str) -> int:
        """Return the number of transfers in one of the two lists."""
        return sum(len(records) for records in getattr(self, which))


async def post_until_killed(day: Day, server: ServerProcess, seconds: float) -> Crash:
    """Post small requests, kill the server with SIGKILL in the middle, and return who was told
    what.
    """
    crash = Crash()
    async with Client(server.url, give_up_after_s=0.0, exists="never") as client:

        async def poster() -> None:
            while True:
                records = transfers(
                    day,
                    EMPLOYER_IDS[day.rng.integers(0, EMPLOYERS, SMALL_REQUEST)],
                    day.customer(SMALL_REQUEST),
                    day.rng.integers(1, 1000, SMALL_REQUEST, dtype=np.uint64),
                    SALARY,
                    count=SMALL_REQUEST,
                )
                try:
                    results = await client.create_transfers(records)
                except ClientError:
                    crash.unanswered.append(records)
                    return
                if not bool((results["status"] == layout.CREATED).all()):
                    raise AssertionError("a salary was refused")
                crash.acknowledged.append(records)

        posters = [asyncio.create_task(poster()) for _ in range(SMALL_REQUESTS_IN_FLIGHT)]
        await asyncio.sleep(seconds)
        server.process.kill()
        await asyncio.gather(*posters)
    server.kill()
    return crash


async def check_after_crash(
    day: Day, client: Client, crash: Crash, before: dict[str, int], display: Progress
) -> None:
    """Look up every acknowledged transfer, send the unanswered ones again, and count the money."""
    task = display.add_task(f"{'looking each of them up':<28}", total=crash.count("acknowledged"))
    found = 0
    for start in range(0, len(crash.acknowledged), 30):
        records = np.concatenate(crash.acknowledged[start : start + 30])
        stored = await client.lookup_transfers(int(number) for number in records["id"]["lo"])
        found += sum(
            one is not None
            and one.amount == int(record["amount"]["lo"])
            and one.debit_account_id == int(record["debit_account_id"]["lo"])
            and one.credit_account_id == int(record["credit_account_id"]["lo"])
            for one, record in zip(stored, records, strict=True)
        )
        display.advance(task, len(records))
    expected = crash.count("acknowledged")
    day.check(
        f"{found:,} of {expected:,} acknowledged transfers are there, with what was sent",
        found == expected and expected > 0,
    )
    created = existed = 0
    for records in crash.unanswered:
        results = await client.create_transfers(records, exists="never")
        created += int((results["status"] == layout.CREATED).sum())
        existed += int((results["status"] == layout.STATUS_NUMBERS["TRANSFER"]["exists"]).sum())
    day.check(
        f"{crash.count('unanswered'):,} without an answer were sent again with the same ids:"
        f" {created:,} are new, {existed:,} had been made durable",
        created + existed == crash.count("unanswered"),
    )
    after = await trial_balance(day, client, show=False)
    posted = sum(
        int(records["amount"]["lo"].sum()) for records in crash.acknowledged + crash.unanswered
    )
    day.check(
        f"debits grew by {money(posted)}, as sent: nothing is missing, nothing is there twice",
        after["debits_posted"] - before["debits_posted"] == posted,
    )
    day.figures |= {
        "acknowledged_before_kill": expected,
        "acknowledged_and_found": found,
        "unanswered": crash.count("unanswered"),
        "unanswered_created": created,
        "unanswered_existed": existed,
    }
