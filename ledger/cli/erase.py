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
        if yes:
            return True
        count = len(erasure.accounts)
        what = "1 account" if count == 1 else f"{count:,} accounts"
        return click.confirm(
            f"Erase {what} with {erasure.entries:,} entries for good?", err=True, default=False
        )

    asked = False

    def confirm_once(erasure: Erasure) -> bool:
        nonlocal asked
        asked = not confirm(erasure)
        return not asked

    with stages(quiet=as_json or not yes) as progress:
        erasure = erased(
            directory,
            configuration.load(config_path),
            account_id,
            dry_run=dry_run,
            confirm=confirm_once,
            progress=progress,
        )
    done = not dry_run and not asked and not erasure.refusals
    if as_json:
        print_json({**dataclasses.asdict(erasure), "erased": done})
    for line in () if as_json else erasure.refusals:
        notes.print(line, soft_wrap=True)
    if erasure.refusals or asked:
        if not as_json:
            notes.print("Nothing was erased.")
        raise click.exceptions.Exit(CHECK_FAILED)
    if as_json:
        return
    if dry_run:
        console.print(
            f"{len(account_id):,} accounts with {erasure.entries:,} entries can be erased."
        )
    else:
        console.print(
            f"Erased {len(account_id):,} accounts: {erasure.entries:,} entries in"
            f" {erasure.blocks:,} blocks, {erasure.metadata:,} metadata objects"
            f" ({erasure.seconds:.1f} s)."
        )
        console.print("Old backups and exports still hold them: destroy those too.")
