"""``sanyuan audit``: proofs and packages of a running server, and the verifier.

Bundles are kept as the server sent them; nothing here decides whether they hold. That is for
``verify.py``, which the last command runs as it is, with the policy that the auditor has.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

import ledger.proof
from ledger.cli.console import bytes_text, console, notes, print_json
from ledger.cli.remote import server_options
from ledger.client import Client
from ledger.errors import ConfigurationError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
VERIFIER: Final = Path(ledger.proof.__file__).with_name("verify.py")
_OUTPUT: Final = click.Path(dir_okay=False, writable=True, path_type=Path)


def _period(command: F) -> F:
    options = [
        click.option("--from", "start", metavar="DATE", help="First business date, or a block."),
        click.option("--to", "end", metavar="DATE", help="Last business date, or a block."),
        click.option("--counterparties", is_flag=True, help="Show who was on the other side."),
        click.option("--metadata", is_flag=True, help="Show metadata, not only its hash."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _output(default: str) -> Callable[[F], F]:
    return click.option(
        "--output", "-o", type=_OUTPUT, help=f"Where the bundle goes; by default {default}."
    )


@click.group()
def audit() -> None:
    """Proofs that anybody can check offline: for an auditor, a court, a customer.

    A bundle or package proves nothing by itself: `sanyuan audit verify`, or verify.py from another
    source, checks it with a policy that did not come from the bank.
    """


def _asked(
    url: str, api_key: str | None, timeout_s: float, ask: Callable[[Client], Awaitable[T]]
) -> T:
    async def run() -> T:
        async with Client(url, api_key=api_key, give_up_after_s=timeout_s) as client:
            return await ask(client)

    return asyncio.run(run())


# ----------------------------------------------------------------------------------------------
# What is in a bundle, for people
# ----------------------------------------------------------------------------------------------


def _keep(body: bytes, *, output: Path | None, default: str, as_json: bool) -> None:
    """Write a bundle to its file and say what is in it; or print it and nothing else."""
    if as_json and output is None:
        click.echo(body.decode(), nl=False)
        return
    path = output or Path(default)
    try:
        path.write_bytes(body)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if as_json:
        print_json({"file": str(path), "bytes": len(body), **_summary(json.loads(body))})
        return
    console.print(_facts(json.loads(body)))
    notes.print(f"\n[green]✓[/] {path}, {bytes_text(len(body))}")
    notes.print(f"check it: sanyuan audit verify {path} --policy YOUR-POLICY", style="dim")


def _summary(bundle: dict[str, Any]) -> dict[str, Any]:
    """What a bundle claims, as the server says: not verified."""
    origin, size, _ = bundle["checkpoint"].split("\n")[:3]
    signers = [line.split(" ")[1] for line in bundle["checkpoint"].split("\n\n", 1)[1].splitlines()]
    kinds: dict[str, int] = {}
    for item in bundle["items"]:
        kinds[item["type"]] = kinds.get(item["type"], 0) + 1
    return {
        "origin": origin,
        "log_size": int(size),
        "signed_by": signers,
        "items": kinds,
        "entries": sum(len(i["entries"]) for i in bundle["items"] if i["type"] == "statement"),
    }


def _facts(bundle: dict[str, Any]) -> Table:
    summary = _summary(bundle)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("[dim]log[/]", summary["origin"])
    table.add_row("[dim]checkpoint[/]", f"{summary['log_size']:,} intervals")
    table.add_row("[dim]signed by[/]", ", ".join(summary["signed_by"]))
    for state in bundle["states"]:
        record = bundle["intervals"][state["interval"]]["record"]
        named = next(line for line in record.splitlines() if line.startswith("state "))
        date = named.split(" ")[3]
        shown = f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else "no business date"
        table.add_row("[dim]state root[/]", f"block {state['block']:,}, {shown}")
    for block in bundle["blocks"][:10]:
        number = int.from_bytes(base64.b64decode(block["header"])[32:40], "little")
        table.add_row("[dim]block[/]", f"{number:,}")
    if len(bundle["blocks"]) > 10:
        table.add_row("", f"and {len(bundle['blocks']) - 10:,} more")
    items = ", ".join(
        f"{count:,} {kind.replace('_', ' ')}" for kind, count in summary["items"].items()
    )
    table.add_row("[dim]items[/]", items)
    for item in bundle["items"]:
        if item["type"] == "statement":
            shown = f"account {item['account']}, {len(item['entries']):,} entries"
            table.add_row("[dim]statement[/]", shown)
    return table


# ----------------------------------------------------------------------------------------------
# Commands
# ----------------------------------------------------------------------------------------------


@audit.command()
@server_options
@_output("KIND-ID.json")
@click.option("--at", metavar="DATE", help="For account: at or before this business date or block.")
@click.option(
    "--hide",
    multiple=True,
    type=click.Choice(["debit", "credit", "metadata"]),
    help="For transfer: leave this as a hash.",
)
@click.argument("kind", type=click.Choice(["transfer", "account"]))
@click.argument("id")
def proof(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    output: Path | None,
    at: str | None,
    hide: tuple[str, ...],
    kind: str,
    id: str,
) -> None:
    """Prove that a transfer is in the journal, or what an account's balances were."""
    if at is not None and kind != "account":
        raise click.UsageError("--at belongs to account")
    if hide and kind != "transfer":
        raise click.UsageError("--hide belongs to transfer")

    async def ask(client: Client) -> bytes:
        if kind == "transfer":
            return await client.proofs.transfer(id, hide=hide)
        return await client.proofs.account(id, at=at)

    body = _asked(url, api_key, timeout_s, ask)
    _keep(body, output=output, default=f"{kind}-{id}.json", as_json=as_json)


@audit.command()
@server_options
@_output("statement-ID.json")
@_period
@click.argument("account_id")
def statement(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    output: Path | None,
    start: str | None,
    end: str | None,
    counterparties: bool,
    metadata: bool,
    account_id: str,
) -> None:
    """Prove the complete statement of an account between two business days."""
    disclose = _disclosed(counterparties=counterparties, metadata=metadata)
    body = _asked(
        url,
        api_key,
        timeout_s,
        lambda client: client.proofs.statement(account_id, start=start, end=end, disclose=disclose),
    )
    _keep(body, output=output, default=f"statement-{account_id}.json", as_json=as_json)


def _disclosed(*, counterparties: bool, metadata: bool) -> list[str]:
    given = {"counterparties": counterparties, "metadata": metadata}
    return [name for name, wanted in given.items() if wanted]


@audit.command("trial-balance")
@server_options
@_output("trial-balance.json")
@click.option("--at", metavar="DATE", help="At or before this business date or block.")
@click.option(
    "--tile", "tiles", multiple=True, metavar="LEDGER:CODE:N", help="Open these 256 accounts too."
)
def trial_balance(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    output: Path | None,
    at: str | None,
    tiles: tuple[str, ...],
) -> None:
    """Prove the sums of every ledger and code."""
    opened = []
    for text in tiles:
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise click.UsageError("--tile is LEDGER:CODE:N, three numbers")
        opened.append((int(parts[0]), int(parts[1]), int(parts[2])))
    body = _asked(
        url, api_key, timeout_s, lambda client: client.proofs.trial_balance(at=at, tiles=opened)
    )
    if not as_json:
        console.print(_groups(json.loads(body)), "")
    _keep(body, output=output, default="trial-balance.json", as_json=as_json)


def _groups(bundle: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("ledger", "code", "accounts", "debits posted", "credits posted"):
        table.add_column(heading, justify="right")
    for text in bundle["states"][0]["groups"]:
        group = base64.b64decode(text)
        table.add_row(
            *(
                f"{int.from_bytes(group[start:end], 'little'):{form}}"
                for start, end, form in (
                    (4, 8, ""),
                    (2, 4, ""),
                    (8, 16, ","),
                    (48, 68, ","),
                    (68, 88, ","),
                )
            )
        )
    return table


@audit.command()
@server_options
@_output("sample.json")
@click.option("--n", "count", type=click.IntRange(1), default=60, show_default=True)
@click.option("--seed", help="Draw by this text.")
@click.option("--witness", metavar="NAME", help="Draw by this witness's newest cosignature.")
def sample(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    output: Path | None,
    count: int,
    seed: str | None,
    witness: str | None,
) -> None:
    """Draw entries from the whole journal, with their proofs.

    Nobody can choose a witness's cosignature, so nobody can steer what is drawn; with a seed, let
    it be one that the bank did not know beforehand.
    """
    if (seed is None) == (witness is None):
        raise click.UsageError("either --seed or --witness is needed")
    body = _asked(
        url,
        api_key,
        timeout_s,
        lambda client: client.proofs.sample(count, seed=seed, witness=witness),
    )
    _keep(body, output=output, default="sample.json", as_json=as_json)


@audit.command("state-roots")
@server_options
@click.option("--make", is_flag=True, help="Have one made and kept now, first.")
def state_roots(url: str, api_key: str | None, timeout_s: float, as_json: bool, make: bool) -> None:
    """List the kept state roots, at which balances and statements can be proven."""

    async def ask(client: Client) -> tuple[int | None, list[Any]]:
        made = await client.proofs.make_state_root() if make else None
        return made, await client.proofs.state_roots()

    made, roots = _asked(url, api_key, timeout_s, ask)
    if as_json:
        rows = [
            {
                "block": root.block,
                "timestamp": root.timestamp,
                "business_date": str(root.business_date) if root.business_date else None,
                "root": root.root,
                "interval": root.interval,
            }
            for root in roots
        ]
        print_json({"made": made, "state_roots": rows})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("block", "business date", "interval", "root"):
        table.add_column(heading, justify="right" if heading in ("block", "interval") else "left")
    for root in roots:
        named = f"{root.interval:,}" if root.interval is not None else "[yellow]not yet[/]"
        table.add_row(f"{root.block:,}", str(root.business_date or "-"), named, root.root)
    console.print(table)
    if made is not None:
        notes.print(f"[green]✓[/] made one after block {made:,}")


@audit.command()
@server_options
@_period
@click.option("--account", "accounts", multiple=True, metavar="ID", help="Its statement; repeat.")
@click.option("--all", "whole", is_flag=True, help="The trial balance and every account.")
@click.argument("file", type=_OUTPUT)
def export(
    url: str,
    api_key: str | None,
    timeout_s: float,
    as_json: bool,
    start: str | None,
    end: str | None,
    counterparties: bool,
    metadata: bool,
    accounts: tuple[str, ...],
    whole: bool,
    file: Path,
) -> None:
    """Write the package that an auditor gets to FILE: proofs, statements, verifier, explanations.

    Nothing is written under that name until the package is complete.
    """
    if whole == bool(accounts):
        raise click.UsageError("either --account, once or more, or --all is needed")
    disclose = _disclosed(counterparties=counterparties, metadata=metadata)
    partial = file.with_name(file.name + ".part")
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=notes,
        disable=as_json,
        transient=True,
    )
    try:
        with display, partial.open("wb") as out:
            task = display.add_task("package", total=None)

            def take(piece: bytes) -> None:
                out.write(piece)
                display.advance(task, len(piece))

            _asked(
                url,
                api_key,
                timeout_s,
                lambda client: client.proofs.export(
                    "all" if whole else accounts, take, start=start, end=end, disclose=disclose
                ),
            )
        partial.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    with zipfile.ZipFile(file) as package:
        names = {info.filename: info.file_size for info in package.infolist()}
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, "files": names})
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, size in names.items():
        table.add_row(name, bytes_text(size))
    table.columns[1].justify = "right"
    console.print(table)
    notes.print(f"\n[green]✓[/] {file}, {bytes_text(file.stat().st_size)}")
    notes.print(f"check it: sanyuan audit verify {file} --policy YOUR-POLICY", style="dim")


@audit.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def verify(arguments: tuple[str, ...]) -> None:
    """Check a bundle or package: verify.py BUNDLE --policy FILE, as it is.

    All its options can be given; --help shows them. Exit code 0 only when everything holds.
    """
    done = subprocess.run([sys.executable, "-I", str(VERIFIER), *arguments], check=False)
    raise click.exceptions.Exit(done.returncode)
