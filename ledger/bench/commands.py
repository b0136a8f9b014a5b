"""``sanyuan bench``: the commands; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ledger import config, layout
from ledger.errors import LedgerError

F = TypeVar("F", bound=Callable[..., Any])

DISTRIBUTIONS = click.Choice(["uniform", "zipf", "hot"])
ID_ORDERS = click.Choice(["sequential", "random"])
PAYLOADS = click.Choice(["full", "lean"])


def _workload_options(command: F) -> F:
    options = [
        click.option("--accounts", type=click.IntRange(2), default=10_000, show_default=True),
        click.option("--transfers", type=click.IntRange(1), default=1_000_000, show_default=True),
        click.option(
            "--distribution", type=DISTRIBUTIONS, default="uniform", show_default=True,
            help="Which accounts: all alike, Zipf 0.99, or one credit account in every transfer.",
        ),
        click.option(
            "--id-order", type=ID_ORDERS, default="sequential", show_default=True,
            help="48-bit milliseconds and 80 random bits, or UUIDv4.",
        ),
        click.option(
            "--batch", type=click.IntRange(1, layout.REQUEST_EVENTS_MAX),
            default=layout.REQUEST_EVENTS_MAX, show_default=True, help="Transfers in a request.",
        ),
        click.option(
            "--payload", type=PAYLOADS, default="full", show_default=True,
            help="Random user_data_128/64/32, or user_data_64 alone.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, 1 << 31), default=1, show_default=True,
            help="Of the generator.",
        ),
        click.option(
            "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path),
            help="Write the figures to this file.",
        ),
        click.option(
            "--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Where to make the data directory; a real disk, not tmpfs. Default: here.",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _data_directory(parent: Path | None) -> Iterator[Path]:
    """Give the path of a fresh data directory, and remove all that was made there."""
    around = Path(tempfile.mkdtemp(prefix="sanyuan-bench-", dir=parent or Path.cwd()))
    try:
        yield around / "data"
    finally:
        shutil.rmtree(around, ignore_errors=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress function that draws bars on standard error."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    # Two pictures a second: the run has no processor to spare.
    with Progress(*columns, console=console, refresh_per_second=2) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield show


def _write(figures: dict[str, Any], json_file: Path) -> None:
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(figures, indent=2) + "\n")


def _report(figures: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        _write(figures, json_file)
    table = Table(show_header=False)
    for name, value in figures.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {item}" for key, item in value.items())
        else:
            text = f"{value:,}" if isinstance(value, int | float) else str(value)
        table.add_row(name, text)
    Console().print(table)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (LedgerError, OSError) as error:
        raise click.ClickException(str(error)) from error


@click.group()
def bench() -> None:
    """Measure the ledger on this machine: fsync on, commitments on, a fresh data directory."""


@bench.command()
@_workload_options
def engine(parent: Path | None, json_file: Path | None, **workload: Any) -> None:
    """The engine that serve uses, in this process, over LMDB, with eight requests in flight."""
    from ledger.bench import engine_run

    with _errors(), _data_directory(parent) as directory:
        with _progress() as progress:
            figures = engine_run.run(
                engine_run.Workload(**workload), directory, config.load(), progress
            )
    _report(figures, json_file)


@bench.command()
@_workload_options
@click.option("--encoding", type=click.Choice(["binary", "json"]), default="binary",
              show_default=True)  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 4096), default=8, show_default=True)
def http(
    parent: Path | None, json_file: Path | None, encoding: str, connections: int, **workload: Any
) -> None:
    """A server process of its own, over HTTP on the loopback interface."""
    from ledger.bench import engine_run, http_run

    with _errors(), _data_directory(parent) as directory:
        with _progress() as progress:
            figures = http_run.run(
                engine_run.Workload(**workload), directory,
                encoding=encoding, connections=connections, progress=progress,
            )  # fmt: skip
    _report(figures, json_file)


@bench.command()
@_workload_options
@click.option("--roots", type=click.IntRange(1), default=3, show_default=True,
              help="State roots made one after the other under load.")  # fmt: skip
def roots(parent: Path | None, json_file: Path | None, roots: int, **workload: Any) -> None:
    """State roots made while the engine is posted to without a pause; --transfers come before."""
    from ledger.bench import engine_run, roots_run

    with _errors(), _data_directory(parent) as directory:
        with _progress() as progress:
            figures = roots_run.run(
                engine_run.Workload(**workload), directory, config.load(), roots, progress
            )
    _report(figures, json_file)


@bench.command()
@click.option("--accounts", type=click.IntRange(2), default=1_000_000, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True,
              help="Each figure is the median of so many.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)  # fmt: skip
def commit(accounts: int, repeats: int, json_file: Path | None) -> None:
    """What hashing costs: a transfer's share of a block, and a state root, with each kernel."""
    from ledger.bench import commit_run

    with _errors(), _progress() as progress:
        figures = commit_run.run(accounts, repeats, progress)
    if json_file is not None:
        _write(figures, json_file)
    blocks = Table(title="processor time a transfer, ns")
    for heading in ("lanes", "block", "leaves", "root", "chains", "commitment"):
        blocks.add_column(heading, justify="right")
    for row in figures["blocks"]:
        parts = [f"{row[f'{name}_ns']:.0f}" for name in ("leaves", "root", "chains", "commitment")]
        blocks.add_row(str(row["lanes"]), f"{row['entries']:,}", *parts)
    roots = Table(title=f"a state root of {accounts:,} accounts, processor seconds")
    for heading in ("lanes", "changed", "capture", "build", "both", "elapsed"):
        roots.add_column(heading, justify="right")
    for row in figures["state_roots"]:
        names = ("capture_cpu", "build_cpu", "cpu", "elapsed")
        parts = [f"{row[f'{name}_seconds']:.3f}" for name in names]
        roots.add_row(str(row["lanes"]), row["changed"], *parts)
    console = Console()
    console.print(blocks)
    console.print(roots)


@bench.command()
@click.option("--transfers", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=2000, show_default=True,
              help="Proofs that are asked for.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)  # fmt: skip
@click.option(
    "--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to make the data directory; a real disk, not tmpfs. Default: here.",
)  # fmt: skip
def proofs(transfers: int, requests: int, json_file: Path | None, parent: Path | None) -> None:
    """Proofs of transfers drawn from all, in process and over HTTP, and a statement of 1,000."""
    from ledger.bench import proof_run

    with _errors(), _data_directory(parent) as directory:
        with _progress() as progress:
            figures = proof_run.run(transfers, requests, directory, progress)
    _report(figures, json_file)
