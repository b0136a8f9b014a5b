"""What the commands share: where they print, how they fail, and how they show that they are at
work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ledger.errors import (
    ConfigurationError,
    DataDamaged,
    DirectoryInUse,
    DiskFailed,
    FormatTooNew,
    RequestRefused,
    Unavailable,
)

P = ParamSpec("P")
T = TypeVar("T")

EXIT_CODES: Final = {
    0: "done, and everything that was checked is right",
    1: "a check failed: a difference was found, or an event was refused",
    2: "the command line is wrong, or a file or knob that it names",
    3: "the data directory is in use by another process",
    4: "the disk failed or is full",
    5: "stored data is damaged",
    6: "the data directory was written by a newer version",
    7: "the server could not be reached, or was not ready",
    8: "the outcome of a write is unknown: send the same ids again",
    9: "the server refused the request",
    70: "a fault of the program itself",
    130: "interrupted",
}
"""The exit codes of all commands; docs/operating.md has the same table."""
CHECK_FAILED: Final = 1
FAULT: Final = 70

EPILOGUE: Final = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()
)

WIDTH: Final = None if sys.stdout.isatty() else 100
"""Columns where there is no terminal to ask; rich would take 80."""
console: Final = Console(highlight=False, width=WIDTH)
"""Standard output, for what a command is asked for."""
notes: Final = Console(stderr=True, highlight=False, width=WIDTH)
"""Standard error, for progress and for what went wrong."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of an exception that a command ends with."""
    # The client needs aiohttp, which most commands do not; when it is not imported, it raised
    # nothing.
    from ledger.client import NotTaken, OutcomeUnknown, Refused, ServerFailed, Unreachable

    table: list[tuple[type[BaseException], int]] = [
        (ConfigurationError, 2),
        (DirectoryInUse, 3),
        (DiskFailed, 4),
        (FormatTooNew, 6),
        (DataDamaged, 5),
        (NotTaken, 7),
        (Unreachable, 7),
        (ServerFailed, 7),
        (Unavailable, 7),
        (OutcomeUnknown, 8),
        (Refused, 9),
        (RequestRefused, 9),
        (KeyboardInterrupt, 130),
    ]
    return next((code for kind, code in table if isinstance(error, kind)), FAULT)


def fail(error: BaseException) -> NoReturn:
    """End the command with the error's message and exit code."""
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    click.echo(f"sanyuan: {message}", err=True)
    raise click.exceptions.Exit(exit_code(error))


def print_json(document: Any) -> None:
    """Print one JSON document; whole numbers beyond 2^53 become decimal strings."""
    click.echo(json.dumps(_safe(document), indent=1, ensure_ascii=False))


def _safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 53:
        return str(value)
    return value


def bar(*, quiet: bool = False, unit: str = "") -> Progress:
    """Return a progress display on standard error; silent when ``quiet``."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}", justify="right"),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=notes,
        disable=quiet,
    )


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a ``progress(stage, done, total)`` that draws one bar for each stage."""
    with bar(quiet=quiet) as display:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage, total=total)
            display.update(tasks[stage], completed=done, total=total)

        yield progress


def bytes_text(count: int) -> str:
    """Return a number of bytes for people: 1,234,567 B is 1.2 MB."""
    size, units = count, ["B", "kB", "MB", "GB", "TB", "PB"]
    for unit in units:
        if size < 10_000 or unit == units[-1]:
            return f"{size:,} {unit}"
        size //= 1000
    raise AssertionError


def money(amount: int, exponent: int = 2) -> str:
    """Return minor units as a decimal number: 123456 with exponent 2 is 1,234.56."""
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    if exponent == 0:
        return f"{sign}{size:,}"
    whole, rest = divmod(size, 10**exponent)
    return f"{sign}{whole:,}.{rest:0{exponent}}"
