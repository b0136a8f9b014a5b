"""The small ledgers of the vectors: always the same, with entries of every kind."""

from __future__ import annotations

from functools import cache

from tests.model.proofs import (
    CLOSING_CREDIT,
    DAY_NS,
    IMPORTED,
    PENDING,
    Ledger,
    Signer,
)

ORIGIN = "bank.example/ledger"
ALICE, BOB, CASH, FEES, SHOP, MEI = 501, 502, 9001, 9002, 503, 7001
CUSTOMERS = 520
"""Accounts of ledger 156, code 100: three tiles."""
FRIDAY, MONDAY, TUESDAY, WEDNESDAY = 20260102, 20260105, 20260106, 20260107
OLDER, NEWER, NEWEST = 3, 7, 11
"""Blocks of the kept states: the ends of Friday, Monday and Tuesday."""

WITNESSES = {
    "north": Signer("witness.north.example", 4),
    "south": Signer("witness.south.example", 4),
    "court": Signer("witness.court.example", 4),
}


def policy(
    *logs: Signer,
    quorum: str = "two",
    witnesses: dict[str, Signer] = WITNESSES,
    more: str = "",
) -> str:
    lines = [f"log {log.vkey}" for log in logs]
    lines += [f"witness {name} {signer.vkey}" for name, signer in witnesses.items()]
    if witnesses:
        lines.append(f"group two 2 {' '.join(witnesses)}")
    lines.append(f"quorum {quorum}")
    return "# the keys that this auditor trusts\n" + "\n".join(lines) + "\n" + more


def begin(origin: str = ORIGIN) -> Ledger:
    """The first block and the last of Friday: openings, the cash paid in, a seal."""
    ledger = Ledger(origin)
    ledger.define(1, ledger=156, exponent=2, metadata='{"currency":"CNY","name":"人民币"}')
    ledger.move_date(2, FRIDAY)
    ledger.open(CASH, ledger=156, code=10)
    ledger.open(FEES, ledger=156, code=20)
    for id in range(1, CUSTOMERS + 1):
        ledger.open(id, ledger=156, code=100, flags=8 if id == ALICE else 2)
    ledger.open(9100, ledger=840, code=10)
    ledger.open(MEI, ledger=840, code=100)
    ledger.close_block(seal=True)
    for id in (1, 2, 300, ALICE, BOB, SHOP):
        ledger.transfer(10_000 + id, CASH, id, 100_000 + id)
    ledger.transfer(10_600, 9100, MEI, 55_555)
    ledger.close_block()
    ledger.transfer(10_700, ALICE, BOB, 2_500, metadata='{"for":"rent 房租"}')
    ledger.burn(10_701, 54)
    ledger.close_block(seal=True)
    ledger.time += DAY_NS
    ledger.move_date(3, MONDAY)
    ledger.close_block()
    assert ledger.blocks[-1].number == OLDER
    return ledger


def monday(ledger: Ledger) -> None:
    """From the end of Friday to the end of Monday, in two intervals: all that can happen."""
    ledger.transfer(20_001, ALICE, SHOP, 1_200, flags=PENDING, timeout=3600)
    ledger.transfer(20_002, ALICE, SHOP, 700, flags=PENDING)
    ledger.transfer(20_003, BOB, ALICE, 4_000, flags=PENDING, user_data=(1 << 100, 77, 20260105))
    ledger.settings(20_004, ALICE, 5_000, 0, 1)
    ledger.transfer(20_005, ALICE, FEES, 25, metadata='{"fee":"account"}')
    ledger.close_block(seal=True)
    ledger.post(20_006, 20_002, 650)
    ledger.void(20_007, 20_003)
    ledger.time += 3600 * 10**9
    ledger.expire(20_001)
    ledger.transfer(20_008, SHOP, ALICE, 333, flags=IMPORTED, timestamp=ledger.time - DAY_NS)
    ledger.transfer(20_009, BOB, ALICE, 1_000)
    ledger.close_block()
    ledger.transfer(20_010, ALICE, CASH, 90_000)
    ledger.transfer(20_011, CASH, BOB, 0, flags=PENDING | CLOSING_CREDIT)
    ledger.close_block()
    ledger.time += DAY_NS
    ledger.move_date(4, TUESDAY)
    ledger.close_block(seal=True)
    assert ledger.blocks[-1].number == NEWER


def tuesday(ledger: Ledger) -> None:
    ledger.transfer(30_001, CASH, ALICE, 10_000)
    ledger.settings(30_002, ALICE, 0, 2_000_000, 2)
    ledger.close_block(seal=True)
    ledger.transfer(30_003, ALICE, SHOP, 75)
    ledger.open(8_888, ledger=156, code=15)
    ledger.close_block()
    ledger.transfer(30_004, ALICE, SHOP, 76, metadata='{"for":"tea 茶"}')
    ledger.close_block(seal=True)
    ledger.time += DAY_NS
    ledger.move_date(5, WEDNESDAY)
    ledger.close_block()
    assert ledger.blocks[-1].number == NEWEST


def end(ledger: Ledger) -> None:
    """A little more, so that the newest state is in a record, and a last one without news."""
    ledger.transfer(40_001, CASH, 300, 5)
    ledger.close_block(seal=True)
    ledger.transfer(40_002, CASH, 300, 6)
    ledger.close_block(seal=True)


@cache
def bank() -> Ledger:
    """The ledger that most vectors are of: 7 intervals, 3 kept states."""
    ledger = begin()
    ledger.keep_state()
    monday(ledger)
    ledger.keep_state()
    tuesday(ledger)
    ledger.keep_state()
    end(ledger)
    return ledger


@cache
def small() -> Ledger:
    """Three accounts and one interval with a state: for flipped bits and full exports."""
    ledger = Ledger("small.example")
    ledger.open(1, ledger=1, code=1)
    ledger.open(2, ledger=1, code=1)
    ledger.close_block()
    ledger.transfer(3, 1, 2, 100)
    ledger.close_block()
    ledger.keep_state()
    ledger.open(4, ledger=1, code=2)
    ledger.close_block(seal=True)
    return ledger
