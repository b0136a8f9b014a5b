"""How long verify.py takes for a complete statement of 1,000 entries.

    python -m tests.vectors.speed

Time of the examination alone, from bytes in memory to the report, in a zip with its table, under a
checkpoint with three witnesses; the best and the middle one of several runs.
"""

from __future__ import annotations

import statistics
import sys
import time

from ledger.proof import verify
from tests.model import bank
from tests.model.proofs import PENDING, Bundle, Ledger, export, zip_bytes

ENTRIES = 1000


def statement(count: int) -> tuple[bytes, bytes]:
    """A zip with a complete statement of so many entries, of a few kinds, and a policy for it."""
    ledger = Ledger(bank.ORIGIN)
    ledger.move_date(1, bank.FRIDAY)
    for id in range(1, 301):
        ledger.open(id, ledger=156, code=100)
    ledger.close_block(seal=True)
    ledger.move_date(2, bank.MONDAY)
    ledger.close_block()
    ledger.keep_state()
    for number in range(0, count, 4):
        other = 2 + number % 299
        ledger.transfer(1000 + number, 1, other, 500 + number)
        ledger.transfer(1001 + number, other, 1, 300 + number, metadata='{"for":"rent 房租"}')
        ledger.transfer(1002 + number, 1, other, 40, flags=PENDING)
        ledger.post(1003 + number, 1002 + number, 39)
        if number % 40 == 36:
            ledger.close_block(seal=number % 80 == 76)
    ledger.move_date(3, bank.TUESDAY)
    ledger.close_block(seal=True)
    ledger.keep_state()
    ledger.transfer(9, 2, 3, 1)
    ledger.close_block(seal=True)
    bundle = Bundle(ledger, ledger.checkpoint(list(bank.WITNESSES.values())))
    bundle.add_statement(1, 1, ledger.blocks[-2].number, disclose=True, newest=True)
    return zip_bytes(export(bundle)), bank.policy(ledger.log).encode()


def measured(data: bytes, policy: bytes, runs: int) -> list[float]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        report = verify.examine(verify.package_of_bytes(data), policy)
        seconds.append(time.perf_counter() - start)
        assert report.verdict == "accepted", report.reason
        assert f"These {ENTRIES} entries" in "".join(text.en for text in report.proven)
    return seconds


def main() -> None:
    data, policy = statement(ENTRIES)
    sys.stdout.write(f"a statement of {ENTRIES} entries in a zip of {len(data)} bytes\n")
    for pure, runs in ((True, 7), (False, 21)):
        verify.choose(pure)
        seconds = measured(data, policy, runs)
        best, middle = min(seconds), statistics.median(seconds)
        how = verify.CRYPTOGRAPHY.words.en
        sys.stdout.write(f"{how}: best {best:.3f} s, median {middle:.3f} s of {runs} runs\n")


if __name__ == "__main__":
    main()
