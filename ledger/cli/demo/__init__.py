"""``sanyuan demo``: a bank's day over HTTP with three witnesses, a package for an auditor, a kill
in the middle of posting, and a look at what is left.

Nothing here is arranged: server, witnesses and verifier are processes of their own, all figures are
measured or read back, and the command fails when one of them is not what double entry, durability
and the proofs say it must be.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from ledger import layout
from ledger.cli.console import CHECK_FAILED, console, print_json, stages
from ledger.cli.demo.auditing import (
    ORIGIN,
    Auditor,
    Witnesses,
    check_the_log_grew,
    export_the_day,
    refuse_forgeries,
    start_witnesses,
    watch_checkpoints,
)
from ledger.cli.demo.crash import Crash, check_after_crash, post_until_killed
from ledger.cli.demo.day import (
    TODAY,
    TOMORROW,
    Day,
    begin_business_day,
    open_books,
    post_the_day,
    refuse_an_overdraft,
    trial_balance,
)
from ledger.cli.process import ServerProcess
from ledger.client import Client
from ledger.config import Config
from ledger.storage.verify import verify


def say_the_rate(day: Day) -> None:
    """Print and note how many transfers a second the day had."""
    rate = int(day.posted / day.seconds)
    p50, p99 = np.percentile(np.array(day.latencies) * 1000, [50, 99])
    if not day.quiet:
        console.print(
            f"  {day.posted:,} transfers in {day.seconds:.1f} s:"
            f" [bold green]{rate:,} a second[/], each durable before its answer"
        )
        console.print(
            f"  a request of {layout.REQUEST_EVENTS_MAX:,} took {p50:.0f} ms (median),"
            f" {p99:.0f} ms (99 %)\n"
        )
    day.figures |= {
        "transfers": day.posted,
        "seconds": round(day.seconds, 3),
        "transfers_per_second": rate,
        "request_ms_p50": round(float(p50), 1),
        "request_ms_p99": round(float(p99), 1),
    }


async def play_and_prove(
    day: Day, server: ServerProcess, auditor: Auditor, purchases: int
) -> dict[str, int]:
    """Play the day, end it, and have it audited; return the trial balance."""
    async with Client(server.url) as client:
        with day.bars() as display:
            await open_books(day, client, display)
            await begin_business_day(day, client, TODAY)
            await post_the_day(day, client, display, purchases)
        day.say("The day is over")
        say_the_rate(day)
        await refuse_an_overdraft(day, client)
        before = await trial_balance(day, client, show=True)
        await begin_business_day(day, client, TOMORROW)
        day.say("An auditor, without access to the server")
        customer = int(day.all_customers[0])
        await export_the_day(day, client, auditor, customer)
        refuse_forgeries(day, auditor, customer)
    return before


async def post_and_kill(
    day: Day, server: ServerProcess, witnesses: Witnesses, seconds: float
) -> tuple[Crash, list[str]]:
    """Stop a witness, post, kill the server; return who was told what, and the checkpoints seen."""
    name, witness = next(iter(witnesses.processes.items()))
    day.check(f"the witness {name} stops; two are left", witness.stop() == 0)
    day.say(f"More salaries, and SIGKILL after {seconds:g} s")
    seen: list[str] = []
    watching = asyncio.create_task(watch_checkpoints(server.url, seen))
    crash = await post_until_killed(day, server, seconds)
    await watching
    acknowledged = crash.count("acknowledged")
    day.check(f"{acknowledged:,} transfers were acknowledged before the kill", acknowledged > 0)
    return crash, seen


async def run(day: Day, folder: Path, data: Path, purchases: int, seconds: float) -> None:
    """Play the day; every check is noted in ``day``."""
    with ExitStack() as running:
        witnesses = start_witnesses(folder, data, running)
        arguments = ("--policy", str(witnesses.policy))
        auditor = Auditor(folder / "auditor", witnesses.policy)
        with ServerProcess(data, arguments=arguments) as server:
            day.say(f"A server on {data}, at {server.url}")
            if not day.quiet:
                names = ", ".join(witnesses.processes)
                console.print(f"  its log is {ORIGIN}; two of three witnesses cosign it: {names}")
            before = await play_and_prove(day, server, auditor, purchases)
            crash, seen = await post_and_kill(day, server, witnesses, seconds)
        began = time.perf_counter()
        with ServerProcess(data, arguments=arguments) as server:
            recovered = time.perf_counter() - began
            day.figures["restart_seconds"] = round(recovered, 2)
            day.say(f"Started again: ready after {recovered:.1f} s")
            async with Client(server.url) as client:
                with day.bars() as display:
                    await check_after_crash(day, client, crash, before, display)
                await check_the_log_grew(day, client, auditor, seen[-1])
            day.check("the server drains and stops when asked to", server.stop() == 0)
    day.say("Every entry decided again, from the first block on")
    with stages(quiet=day.quiet) as progress:
        verdict = verify(data, Config(), progress)
    day.figures |= {"verified_entries": verdict.entries, "differences": verdict.difference_count}
    day.check(
        f"{verdict.entries:,} entries in {verdict.blocks:,} blocks, {verdict.accounts:,} accounts,"
        f" {verdict.ids:,} ids: {verdict.difference_count:,} differences",
        verdict.clean and verdict.entries > day.posted,
    )


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Data directory to make; by default a temporary one that is removed at the end.",
)
@click.option("--customers", default=20_000, show_default=True, type=click.IntRange(100, 10**6))
@click.option("--purchases", default=1_500_000, show_default=True, type=click.IntRange(1000, 10**8))
@click.option("--seconds", default=2.0, show_default=True, help="Posting before the kill.")
@click.option("--seed", default=1, show_default=True, help="Of the random amounts and accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures and checks as JSON only.")
def demo(
    directory: Path | None,
    customers: int,
    purchases: int,
    seconds: float,
    seed: int,
    as_json: bool,
) -> None:
    """Play a bank's day over HTTP, have it audited offline, kill the server, and show that nothing
    is lost.

    Exit code 1 when anything that must hold does not.
    """
    folder = Path(tempfile.mkdtemp(prefix="sanyuan-demo-"))
    day = Day(
        customers=customers,
        rng=np.random.default_rng(seed),
        next_id=time.time_ns(),
        quiet=as_json,
    )
    try:
        asyncio.run(run(day, folder, directory or folder / "data", purchases, seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [check.sentence for check in day.checks if not check.holds]
    if as_json:
        checks = [{"sentence": c.sentence, "holds": c.holds} for c in day.checks]
        print_json({**day.figures, "checks": checks, "cores": os.cpu_count()})
    elif failed:
        console.print(f"\n[bold red]{len(failed)} of {len(day.checks)} checks failed.[/]")
    else:
        console.print(f"\n[bold green]All {len(day.checks)} checks hold.[/]")
    if failed:
        raise click.exceptions.Exit(CHECK_FAILED)
