"""The command line: composition of the rooms, and nothing else. Commands are imported when they are
run.
"""

from __future__ import annotations

import importlib
import traceback
from typing import Any, Final

import click

from ledger import __version__

COMMANDS: Final = {
    "init": "directory",
    "serve": "serve",
    "status": "directory",
    "verify": "directory",
    "backup": "directory",
    "restore": "directory",
    "erase": "erase",
    "confirm-clock": "directory",
    "api-keys": "keys",
    "signing-key": "signing",
    "witness": "witness",
    "post": "remote",
    "get": "remote",
    "statement": "remote",
    "trial-balance": "remote",
    "audit": "audit",
    "demo": "demo",
    "bench": "bench",
}
"""Each command and the module of ``ledger.cli`` that has it."""


class _Lazy(click.Group):
    """A group whose commands are imported when they are named: a server needs no client, nobody
    needs numba.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module: Any = importlib.import_module(f"ledger.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command


def _epilogue() -> str:
    from ledger.cli.console import EPILOGUE

    return EPILOGUE


class _Main(_Lazy):
    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        self.epilog = _epilogue()
        super().format_epilog(context, formatter)

    def main(self, *arguments: Any, **options: Any) -> Any:
        return super().main(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        # The ledger's exceptions become one line and an exit code, whichever command raises them.
        from ledger.cli.console import FAULT, fail
        from ledger.errors import LedgerError

        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (LedgerError, KeyboardInterrupt) as error:
            fail(error)
        except Exception:
            traceback.print_exc()
            raise click.exceptions.Exit(FAULT) from None


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sanyuan")
def main() -> None:
    """Sanyuan, a core-banking ledger: every acknowledged transfer is durable and provable."""
