"""The commands that talk to a running server: post, get, statement, trial-balance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO, TypeVar

import click
import msgspec
from rich.table import Table

from ledger import layout
from ledger.cli.console import CHECK_FAILED, bar, console, money, notes, print_json
from ledger.client import Account, Client, Result
from ledger.errors import ConfigurationError

POST_KINDS: Final = ("accounts", "transfers", "account-settings", "definitions", "business-date")
GET_KINDS: Final = ("account", "transfer", "balance", "readiness")
F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_URL: Final = "http://127.0.0.1:7447"


def server_options(command: F) -> F:
    """Give a command the options that all of these have: which server, and how to talk to it."""
    options = [
        click.option(
            "--url", envvar="SANYUAN_URL", default=DEFAULT_URL, show_default=True,
            help="The server.",
        ),
        click.option("--api-key", envvar="SANYUAN_API_KEY", help="The key to show it."),
        click.option(
            "--timeout", "timeout_s", type=click.FloatRange(0), default=60.0, show_default=True,
            help="Seconds until a server that cannot be reached is given up.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def read_events(file: TextIO) -> list[dict[str, Any]]:
    """Return the events of a file: one object, an array of them, or one object a line.

    Raises ConfigurationError, with the line, for anything else.
    """
    text = file.read()
    try:
        document = json.loads(text)
        events = document if isinstance(document, list) else [document]
    except ValueError:
        events = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    events.append(json.loads(line))
                except ValueError as error:
                    raise ConfigurationError(f"{file.name}, line {number}: {error}") from error
    for place, event in enumerate(events):
        if not isinstance(event, dict):
            raise ConfigurationError(f"{file.name}: event {place} is not an object")
    if not events:
        raise ConfigurationError(f"{file.name}: no events")
    return events


def requests_of(
    events: Sequence[dict[str, Any]], size: int = layout.REQUEST_EVENTS_MAX
) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """Yield (first index, events) of full requests, none of which cuts a linked chain.

    Raises ConfigurationError for a chain longer than a request.
    """
    start = 0
    while start < len(events):
        end = min(start + size, len(events))
        while start < end < len(events) and "linked" in events[end - 1].get("flags", ()):
            end -= 1
        if end == start:
            raise ConfigurationError(
                f"the linked chain that begins at event {start} has more than {size} events:"
                " a chain must fit into one request"
            )
        yield start, events[start:end]
        start = end


@click.command()
@server_options
@click.option("--dry-run", is_flag=True, help="Answer as the real request would; write nothing.")
@click.option("--explain", is_flag=True, help="Say which rule and which balance refuse an event.")
@click.argument("kind", type=click.Choice(POST_KINDS))
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
def post(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    dry_run: bool,
    explain: bool,
    kind: str,
    file: TextIO,
) -> None:
    """Post the events in FILE (standard input by default) as JSON: an object, an array, or lines.

    More than one request is sent where there are more events than fit into one; a linked chain is
    never cut. Sending a file again is safe: what was created answers exists, which counts as
    success. Exit code 1 when any event is refused.
    """
    events = read_events(file)
    requests = list(requests_of(events))

    async def send() -> list[Result]:
        results: list[Result] = []
        async with Client(url, api_key=api_key, give_up_after_s=timeout_s) as client:
            with bar(quiet=as_json or len(requests) == 1) as display:
                task = display.add_task(f"posting {kind}", total=len(events))
                for start, part in requests:
                    for one in await _post_one(client, kind, part, dry_run, explain):
                        results.append(msgspec.structs.replace(one, index=start + one.index))
                    display.advance(task, len(part))
        return results

    results = asyncio.run(send())
    refused = [r for r in results if not r.created and r.status != "exists"]
    if as_json:
        print_json(
            [{k: v for k, v in msgspec.structs.asdict(r).items() if v is not None} for r in results]
        )
    else:
        for result in refused[:20]:
            console.print(f"[red]✗[/] event {result.index}: {result.status}")
            if result.explanation:
                console.print(f"  {json.dumps(result.explanation)}")
        if len(refused) > 20:
            console.print(f"  and {len(refused) - 20:,} more")
        existed = sum(r.status == "exists" for r in results)
        created = len(results) - len(refused) - existed
        would = "would be " if dry_run else ""
        console.print(
            f"{created:,} {would}created, {existed:,} existed, {len(refused):,} {would}refused"
        )
    if refused:
        raise click.exceptions.Exit(CHECK_FAILED)


async def _post_one(
    client: Client, kind: str, events: Sequence[dict[str, Any]], dry_run: bool, explain: bool
) -> list[Result]:
    if kind == "accounts":
        return await client.create_accounts(events, dry_run=dry_run, explain=explain)
    if kind == "transfers":
        return await client.create_transfers(events, dry_run=dry_run, explain=explain)
    if kind == "account-settings":
        return await client.change_settings(events, dry_run=dry_run)
    if kind == "definitions":
        return await client.define(events, dry_run=dry_run)
    return [await client.move_business_date(event, dry_run=dry_run) for event in events]


@click.command()
@server_options
@click.option("--at", help="For balance: RFC 3339 or nanoseconds; the newest when left out.")
@click.argument("kind", type=click.Choice(GET_KINDS))
@click.argument("id", required=False)
def get(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    at: str | None,
    kind: str,
    id: str | None,
) -> None:
    """Show an account, a transfer, a balance at a time, or whether the server is ready.

    Exit code 1 when the server is not ready, 9 when there is no such account or transfer.
    """
    if (id is None) != (kind == "readiness"):
        raise click.UsageError("an id belongs to account, transfer and balance")
    if at is not None and kind != "balance":
        raise click.UsageError("--at belongs to balance")

    async def fetch(client: Client) -> Any:
        if kind == "readiness":
            return await client.ready()
        assert id is not None
        if kind == "transfer":
            return await client.transfer(id)
        if kind == "balance" and at is not None:
            return await client.balance_at(id, at)
        return await client.account(id)

    found = _fetched(url, api_key, timeout_s, fetch)
    facts = msgspec.structs.asdict(found)
    if as_json:
        print_json(facts)
    else:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in facts.items():
            if value not in (None, (), "") and not (name.startswith("user_data") and value == 0):
                shown = _time(value) if name == "timestamp" and value else _plain(value)
                table.add_row(name.replace("_", " "), shown)
        console.print(table)
    if kind == "readiness" and not found.ready:
        raise click.exceptions.Exit(CHECK_FAILED)


def _fetched(
    url: str,
    api_key: str | None,
    timeout_s: float,
    fetch: Callable[[Client], Coroutine[Any, Any, Any]],
) -> Any:
    async def run() -> Any:
        async with Client(url, api_key=api_key, give_up_after_s=timeout_s) as client:
            return await fetch(client)

    return asyncio.run(run())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09}"


def _declared_exponent(account: Account) -> int:
    """Decimal places of the account's ledger; 0, minor units, where it is not declared."""
    number = (account.balance_text or "").split(" ")[0]
    return len(number.partition(".")[2])


@click.command()
@server_options
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Lines.")
@click.option("--newest", is_flag=True, help="Newest first.")
@click.option(
    "--exponent", type=click.IntRange(0, 18), help="Decimal places; as the ledger declares them."
)
@click.argument("account_id")
def statement(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    limit: int,
    newest: bool,
    exponent: int | None,
    account_id: str,
) -> None:
    """Print an account's transfers with the balance after each."""

    async def fetch(client: Client) -> tuple[Account, list[Any]]:
        account = await client.account(account_id)
        lines: list[Any] = []
        async for line in client.statement(
            account_id, page_size=min(limit, 1000), reversed=newest or None
        ):
            lines.append(line)
            if len(lines) == limit:
                break
        return account, lines

    account, lines = _fetched(url, api_key, timeout_s, fetch)
    if as_json:
        print_json([msgspec.structs.asdict(line) for line in lines])
        return
    if exponent is None:
        exponent = _declared_exponent(account)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("time", "transfer", "code", "debit", "credit", "balance"):
        amount = heading in ("debit", "credit", "balance")
        table.add_column(heading, justify="right" if amount else "left")
    for line in lines:
        shown = money(line.amount, exponent)
        is_debit = line.side == "debit"
        table.add_row(
            _time(line.timestamp),
            str(line.id),
            str(line.code),
            shown if is_debit else "",
            "" if is_debit else shown,
            money(line.balance, exponent),
        )
    console.print(table)
    notes.print(f"{len(lines):,} lines; balance {money(account.balance, exponent)}")


@click.command()
@server_options
@click.option("--ledger", type=click.IntRange(1), help="Only this ledger.")
def trial_balance(
    url: str, api_key: str | None, timeout_s: float, as_json: bool, ledger: int | None
) -> None:
    """Print the sums of each ledger and code; exit code 1 unless debits equal credits."""

    async def fetch(client: Client) -> list[Any]:
        return await client.trial_balance(ledger=ledger)

    lines = _fetched(url, api_key, timeout_s, fetch)
    ledgers = sorted({line.ledger for line in lines})
    balanced = all(
        sum(line.debits_posted - line.credits_posted for line in lines if line.ledger == one) == 0
        and sum(line.debits_pending - line.credits_pending for line in lines if line.ledger == one)
        == 0
        for one in ledgers
    )
    if as_json:
        rows = [msgspec.structs.asdict(line) for line in lines]
        print_json({"balanced": balanced, "lines": rows})
    else:
        names = ("debits_posted", "credits_posted", "debits_pending", "credits_pending")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("ledger", "code", "accounts", *(n.replace("_", " ") for n in names)):
            table.add_column(heading, justify="right")
        for one in ledgers:
            here = [line for line in lines if line.ledger == one]
            for line in here:
                sums = (f"{getattr(line, name):,}" for name in names)
                table.add_row(str(one), str(line.code), f"{line.account_count:,}", *sums)
            totals = (f"[bold]{sum(getattr(line, name) for line in here):,}[/]" for name in names)
            table.add_row(str(one), "sum", "", *totals)
        console.print(table)
        console.print("[green]✓[/] balanced" if balanced else "[red]✗[/] does not balance")
    if not balanced:
        raise click.exceptions.Exit(CHECK_FAILED)
