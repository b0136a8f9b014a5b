"""``python -m ledger`` is the command ``sanyuan``."""

from ledger.cli import main

main(prog_name="sanyuan")
