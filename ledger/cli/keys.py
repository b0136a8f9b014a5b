"""``sanyuan api-keys``: make, list and revoke the keys of a data directory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from ledger.api.keys import SCOPES, create_key, list_keys, revoke_key
from ledger.cli.console import console, print_json
from ledger.storage.directory import read_format

DIRECTORY = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group()
@click.argument("directory", type=DIRECTORY)
@click.pass_context
def api_keys(context: click.Context, directory: Path) -> None:
    """Make, list and revoke the API keys of a data DIRECTORY.

    Only hashes are stored. A running server notices a change within a second.
    """
    if not context.resilient_parsing:
        read_format(directory)
    context.obj = directory


_SCOPE_HELP = "May be given more than once: " + "; ".join(
    f"{name}: {doc}" for name, doc in SCOPES.items()
)


@api_keys.command()
@click.option("--name", required=True, help="Whose key it is; it stands in lists and logs.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(list(SCOPES)), help=_SCOPE_HELP)
@json_option
@click.pass_obj
def create(directory: Path, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key and print it, once: it is not stored and cannot be shown again."""
    key, text = create_key(directory, name=name, scopes=scopes)
    if as_json:
        print_json({"id": key.id, "name": key.name, "scopes": key.scopes, "key": text})
    else:
        console.print(text, soft_wrap=True)


@api_keys.command("list")
@json_option
@click.pass_obj
def list_(directory: Path, as_json: bool) -> None:
    """List the keys: ids, names, scopes, when they were made."""
    keys = list_keys(directory)
    if as_json:
        print_json(
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "scopes": key.scopes,
                    "created_at_ns": str(key.created_at_ns),
                }
                for key in keys
            ]
        )
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("id", "name", "scopes", "made"):
        table.add_column(heading)
    for key in keys:
        made = datetime.fromtimestamp(key.created_at_ns // 10**9, UTC)
        table.add_row(key.id, key.name, ", ".join(key.scopes), f"{made:%Y-%m-%d %H:%M}")
    console.print(table)


@api_keys.command()
@click.argument("key")
@json_option
@click.pass_obj
def revoke(directory: Path, key: str, as_json: bool) -> None:
    """Take a KEY away, by its id or name."""
    gone = revoke_key(directory, key)
    if as_json:
        print_json({"id": gone.id, "name": gone.name})
    else:
        console.print(f"Revoked {gone.id} ({gone.name}).")
