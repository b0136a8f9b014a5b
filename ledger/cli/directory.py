"""The commands that work on a data directory: init, status, verify, backup, restore,
confirm-clock.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ledger import config as configuration
from ledger.cli.console import (
    CHECK_FAILED,
    bytes_text,
    console,
    notes,
    print_json,
    stages,
)
from ledger.errors import ConfigurationError
from ledger.storage import backup as backup_file
from ledger.storage import directory as data_directory
from ledger.storage import space
from ledger.storage.live import live_reader, owner

DIRECTORY = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
config_file = click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of knobs; SANYUAN_<KNOB> in the environment goes before it.",
)


@click.command()
@as_json
@click.argument("directory", type=DIRECTORY)
def init(directory: Path, as_json: bool) -> None:
    """Make an empty ledger in DIRECTORY, which must be new or empty."""
    instance = data_directory.create(directory)
    if as_json:
        print_json({"directory": str(directory), "instance": instance.hex()})
    else:
        console.print(f"Made ledger {instance.hex()} in {directory}.")
        console.print(f"Start it with: sanyuan serve {directory} --port 7447")


def _used_bytes(part: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in part.iterdir() if file.is_file())


@click.command()
@as_json
@click.argument("directory", type=DIRECTORY)
def status(directory: Path, as_json: bool) -> None:
    """Show what a data directory holds and who has it; also while it is being served."""
    instance = data_directory.read_format(directory)
    process = owner(directory)
    facts: dict[str, Any] = {
        "directory": str(directory),
        "instance": instance.hex(),
        "in_use_by": process,
        "blocks": 0,
        "entries": 0,
        "last_timestamp": None,
        "business_date": None,
        "last_hash": None,
    }
    with live_reader(directory) as reader:
        if reader.last_block >= 0:
            last = reader.block(reader.last_block)
            last.check()
            facts |= {
                "blocks": reader.last_block + 1,
                "entries": last.first_entry + last.entry_count,
                "last_timestamp": last.last_timestamp,
                "business_date": last.business_date or None,
                "last_hash": last.hash.hex(),
            }
    for part in data_directory.PARTS:
        facts[f"{part}_bytes"] = _used_bytes(directory / part)
    facts["free_bytes"] = space.free_bytes(directory)
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        if name == "in_use_by":
            value = "nobody" if value is None else f"process {value}"
        elif name == "last_timestamp" and value:
            value = datetime.fromtimestamp(value // 10**9, UTC).isoformat(sep=" ")
        elif name.endswith("_bytes"):
            value = bytes_text(value)
        elif isinstance(value, int) and name != "business_date":
            value = f"{value:,}"
        shown = name.replace("_", " ").removesuffix(" bytes")
        table.add_row(shown, "-" if value is None else str(value))
    console.print(table)


@click.command()
@as_json
@config_file
@click.argument("directory", type=DIRECTORY)
def verify(directory: Path, config_path: Path | None, as_json: bool) -> None:
    """Replay the journal from nothing, decide every entry again, and compare everything stored.

    Compares every balance, block hash, account chain, page and id record, and the outer log with
    the journal. Needs the directory for
    itself: to verify while serving, verify a backup. Exit code 1 when anything differs.
    """
    from ledger.storage.verify import verify as verified

    with stages(quiet=as_json) as progress:
        verdict = verified(directory, configuration.load(config_path), progress)
        for difference in _log_differences(directory, progress):
            verdict.differs(difference)
    if as_json:
        print_json({**dataclasses.asdict(verdict), "clean": verdict.clean})
    else:
        for note in verdict.notes:
            notes.print(f"mended: {note}")
        for difference in verdict.differences:
            console.print(f"[red]✗[/] {difference}")
        untold = verdict.difference_count - len(verdict.differences)
        if untold:
            console.print(f"[red]✗[/] and {untold:,} more")
        mark = "[green]✓[/]" if verdict.clean else "[red]✗[/]"
        console.print(
            f"{mark} {verdict.blocks:,} blocks, {verdict.entries:,} entries,"
            f" {verdict.accounts:,} accounts, {verdict.ids:,} ids, {verdict.pages:,} pages,"
            f" {verdict.state_roots:,} state roots:"
            f" {verdict.difference_count:,} differences ({verdict.seconds:.1f} s)"
        )
        if verdict.last_hash:
            console.print(f"  last block hash {verdict.last_hash}", soft_wrap=True)
    if not verdict.clean:
        raise click.exceptions.Exit(CHECK_FAILED)


def _log_differences(directory: Path, progress: Callable[[str, int, int], None]) -> list[str]:
    """Return what is wrong in the outer log of a directory: it is made anew, and compared."""
    from ledger.proof.interval import Intervals
    from ledger.proof.outer import LOG, OuterLog, differences, read_checkpoint

    folder = directory / LOG
    shown = read_checkpoint(folder)
    if shown is None:
        return []
    with (
        tempfile.TemporaryDirectory(prefix="sanyuan-log-") as temporary,
        live_reader(directory) as reader,
    ):
        right = OuterLog(Path(temporary))
        intervals = Intervals(shown.origin, data_directory.read_format(directory))
        for record in intervals.read(reader, reader.last_block):
            right.append(record.text())
            progress("outer log", record.last_block + 1, reader.last_block + 1)
        return list(differences(folder, right, shown))


@click.command()
@as_json
@click.argument("directory", type=DIRECTORY)
@click.argument("file", type=FILE)
def backup(directory: Path, file: Path, as_json: bool) -> None:
    """Write every durable block of DIRECTORY to a new FILE; also while it is being served."""
    began = time.monotonic()
    instance = data_directory.read_format(directory)
    with stages(quiet=as_json) as progress, live_reader(directory) as reader:
        last = backup_file.write(file, instance, reader, progress)
    _report(as_json, "Wrote", file, last, began)


@click.command()
@as_json
@click.argument("file", type=FILE)
@click.argument("directory", type=DIRECTORY)
def restore(file: Path, directory: Path, as_json: bool) -> None:
    """Make a new data DIRECTORY from a backup FILE, checked as it is read."""
    began = time.monotonic()
    if not file.exists():
        raise ConfigurationError(f"{file} does not exist")
    with stages(quiet=as_json) as progress:
        last = backup_file.restore(file, directory, progress)
    _report(as_json, "Restored", directory, last, began)


def _report(as_json: bool, what: str, path: Path, last: int, began: float) -> None:
    seconds = time.monotonic() - began
    if as_json:
        print_json({"path": str(path), "blocks": last + 1, "seconds": round(seconds, 3)})
    else:
        console.print(f"{what} {path}: {last + 1:,} blocks ({seconds:.1f} s)")


@click.command("confirm-clock")
@click.argument("directory", type=DIRECTORY)
def confirm_clock(directory: Path) -> None:
    """Tell the server of DIRECTORY that the clock is right after it jumped.

    Until then a server that saw the clock jump takes no posts, so that a wrong time is never
    written.
    """
    process = owner(directory)
    if process is None:
        raise ConfigurationError(f"{directory}: no server has it, so there is nothing to confirm")
    os.kill(process, signal.SIGUSR1)
    console.print(f"Told process {process} that the clock is right.")
