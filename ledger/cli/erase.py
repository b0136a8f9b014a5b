"""The command that erases accounts from a data directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ledger import config as configuration
from ledger import layout
from ledger.cli.console import CHECK_FAILED, console, notes, print_json, stages
from ledger.cli.directory import DIRECTORY, as_json, config_file
from ledger.storage.erasure import Erasure
from ledger.storage.erasure import erase as erased


@click.command()
@as_json
@config_file
@click.option("--dry-run", is_flag=True, help="Only say whether the accounts can be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("directory", type=DIRECTORY)
@click.argument("account_id", type=click.IntRange(1, layout.U128_MAX - 1), nargs=-1, required=True)
def erase(
    directory: Path,
    account_id: tuple[int, ...],
    config_path: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase accounts from DIRECTORY, which no server may have: id, user data, metadata, salts.

    An account can be erased when it has no open pending transfers, its posted debits equal its
    posted credits, and it is closed, or blocked on both sides. Amounts stay, and so do all hashes:
    proofs of everyone else hold. Everything is written anew. Backups, exports and copies elsewhere
    are not touched: erase there too. Exit code 1 when an account cannot be erased; then none was.
    """

    def confirm(erasure: Erasure) -> bool:
        what = f"{len(erasure.accounts):,} accounts with {erasure.entries:,} entries"
        return yes or click.confirm(f"Erase {what} for good?", err=True, default=False)

    with stages(quiet=as_json or not yes) as progress:
        erasure = erased(
            directory,
            configuration.load(config_path),
            account_id,
            dry_run=dry_run,
            confirm=confirm,
            progress=progress,
        )
    if as_json:
        print_json(dataclasses.asdict(erasure))
    else:
        _tell(erasure, dry_run=dry_run)
    if erasure.refusals or not (erasure.done or dry_run):
        raise click.exceptions.Exit(CHECK_FAILED)


def _tell(erasure: Erasure, *, dry_run: bool) -> None:
    for line in erasure.refusals:
        notes.print(line, soft_wrap=True)
    accounts, entries = f"{len(erasure.accounts):,} accounts", f"{erasure.entries:,} entries"
    if erasure.done:
        console.print(
            f"Erased {accounts}: {entries} in {erasure.blocks:,} blocks, {erasure.metadata:,}"
            f" metadata objects ({erasure.seconds:.1f} s)."
        )
        console.print("Old backups and exports still hold them: destroy those too.")
    elif dry_run and not erasure.refusals:
        console.print(f"{accounts} with {entries} can be erased.")
    else:
        notes.print("Nothing was erased.")
