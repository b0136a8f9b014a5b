"""Load a real bank into a running ledger over HTTP, and check its balances against the bank's own.

    python examples/berka.py --url http://127.0.0.1:7447 DIR

DIR holds the PKDD'99 Discovery Challenge data of a Czech bank: ``account.asc`` (4,500 accounts) and
``trans.asc`` (transactions from 1993 on, each with the balance after it). Every account is opened,
and every transaction posted, as an imported event with the date it had. On the other side stand the
bank's own accounts: cash, other banks, interest paid and earned, fees. Then the balance of every
account at the end of every day on which it moved is read back with ``balance?at=`` and compared
with what the file states.

Money is in haléř (1/100 of a crown). The bank calculated interest exactly and stated amounts and
balances to 0.10 crowns, so a stated balance may be off by 0.05 for itself and for each interest
posting until then; a difference beyond that is a disagreement. Within a day the file gives no
order, so a day agrees when one of its stated balances is the one at its end.

Loading the same data again changes nothing: ids are permanent.
"""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import click
import numpy as np
from rich.progress import Progress

from ledger import layout
from ledger.client import Client, Records

LEDGER = 203
"""Czech crowns, by the number of ISO 4217."""
CUSTOMER, OWN = 1, 2
"""Codes of accounts: what customers have with the bank, and the bank's own."""
CASH, OTHER_BANKS, INTEREST_PAID, INTEREST_EARNED, FEES = range(1_000_001, 1_000_006)
"""The bank's own accounts; the file's account ids are far below."""
CODES = {"cash in": 1, "cash out": 2, "from a bank": 3, "to a bank": 4, "card": 5}
CODES |= {"interest": 6, "overdraft interest": 7, "fee": 8}
"""Codes of transfers."""
ROUNDING = 5
"""Half of the 0.10 crowns that the bank rounded to, in haléř."""
NS_PER_DAY = 86_400 * 10**9
READS_IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Transaction:
    """One line of trans.asc; amounts in haléř, ``credit`` when it adds to the customer's
    balance.
    """

    id: int
    account_id: int
    date: date
    credit: bool
    kind: str
    own_account_id: int
    amount: int
    stated_balance: int
    counterparty: int


@dataclass(slots=True)
class AccountDay:
    """What the file says of one account on one day on which it moved."""

    account_id: int
    date: date
    stated_balances: list[int]
    allowance: int


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the whole lines of a file of the data set after its heading; a cut last line is no
    line.
    """
    with path.open(encoding="ascii", newline="") as file:
        rows = csv.reader(file, delimiter=";")
        width = len(next(rows))
        for row in rows:
            if len(row) == width:
                yield row


def day_of(text: str) -> date:
    """Return the date of a YYMMDD of the last century."""
    return date(1900 + int(text[:2]), int(text[2:4]), int(text[4:6]))


def minor(text: str) -> int:
    """Return crowns as a whole number of haléř."""
    return int(Decimal(text) * 100)


def classify(operation: str, symbol: str, credit: bool) -> tuple[str, int]:
    """Return what a transaction is, and which of the bank's own accounts stands on the other
    side.
    """
    if symbol == "UROK":
        return "interest", INTEREST_PAID
    if symbol == "SANKC. UROK":
        return "overdraft interest", INTEREST_EARNED
    if symbol == "SLUZBY":
        return "fee", FEES
    if operation == "PREVOD Z UCTU":
        return "from a bank", OTHER_BANKS
    if operation == "PREVOD NA UCET":
        return "to a bank", OTHER_BANKS
    if operation == "VYBER KARTOU":
        return "card", CASH
    return ("cash in" if credit else "cash out"), CASH


def read_transactions(path: Path) -> list[Transaction]:
    """Return all whole transactions in the file's order, which is by date."""
    found = []
    for row in read_rows(path):
        number, account, day, kind, operation, amount, balance, symbol, _, counterparty = row
        credit = kind == "PRIJEM"
        what, own = classify(operation, symbol, credit)
        found.append(
            Transaction(
                id=int(number),
                account_id=int(account),
                date=day_of(day),
                credit=credit,
                kind=what,
                own_account_id=own,
                amount=minor(amount),
                stated_balance=minor(balance),
                counterparty=int(counterparty or 0),
            )
        )
    return found


def start_of(day: date) -> int:
    """Return the first nanosecond of a day."""
    return (day - date(1970, 1, 1)).days * NS_PER_DAY


def account_records(directory: Path, first_day: date) -> Records:
    """Return the openings: the bank's own accounts first, then the customers' at the start of their
    days.
    """
    own = [CASH, OTHER_BANKS, INTEREST_PAID, INTEREST_EARNED, FEES]
    opened = [(account, OWN, first_day - timedelta(days=1)) for account in own]
    opened += sorted(
        ((int(row[0]), CUSTOMER, day_of(row[3])) for row in read_rows(directory / "account.asc")),
        key=lambda account: account[2],
    )
    records = np.zeros(len(opened), layout.ACCOUNT)
    records["id"]["lo"] = [account for account, _, _ in opened]
    records["ledger"] = LEDGER
    records["code"] = [code for _, code, _ in opened]
    records["flags"] = layout.flag_mask("ACCOUNT", "imported")
    records["timestamp"] = [start_of(day) + place for place, (_, _, day) in enumerate(opened)]
    return records


def transfer_records(transactions: list[Transaction]) -> Records:
    """Return the transfers: at noon of their days, a nanosecond apart."""
    records = np.zeros(len(transactions), layout.TRANSFER)
    records["id"]["lo"] = [t.id for t in transactions]
    records["debit_account_id"]["lo"] = [
        t.own_account_id if t.credit else t.account_id for t in transactions
    ]
    records["credit_account_id"]["lo"] = [
        t.account_id if t.credit else t.own_account_id for t in transactions
    ]
    records["amount"]["lo"] = [t.amount for t in transactions]
    records["user_data_64"] = [t.counterparty for t in transactions]
    records["user_data_32"] = [int(t.date.strftime("%Y%m%d")) for t in transactions]
    records["ledger"] = LEDGER
    records["code"] = [CODES[t.kind] for t in transactions]
    records["flags"] = layout.flag_mask("TRANSFER", "imported")
    records["timestamp"] = [
        start_of(t.date) + NS_PER_DAY // 2 + place for place, t in enumerate(transactions)
    ]
    return records


def account_days(transactions: list[Transaction]) -> list[AccountDay]:
    """Return what the file states for each account and day, with how far rounding may have led it
    astray.
    """
    days: dict[tuple[int, date], AccountDay] = {}
    interest_postings: Counter[int] = Counter()
    for t in transactions:
        interest_postings[t.account_id] += t.kind in ("interest", "overdraft interest")
        day = days.setdefault((t.account_id, t.date), AccountDay(t.account_id, t.date, [], 0))
        day.stated_balances.append(t.stated_balance)
        day.allowance = ROUNDING * (interest_postings[t.account_id] + 1)
    return list(days.values())


async def post(client: Client, accounts: Records, transfers: Records, progress: Progress) -> None:
    """Declare the currency and the codes, open all accounts and post all transfers, in order."""
    await client.define(
        [
            {"id": 203_000, "kind": "ledger", "ledger": LEDGER, "exponent": 2,
             "metadata": {"currency": "CZK", "name": "Czech crowns"}},
            {"id": 203_001, "kind": "code", "code": CUSTOMER, "flags": ["normal_side_credit"],
             "metadata": {"name": "customer's account"}},
        ]
    )  # fmt: skip
    for name, records, create in (
        ("accounts", accounts, client.create_accounts),
        ("transfers", transfers, client.create_transfers),
    ):
        task = progress.add_task(f"posting {name}", total=len(records))
        for start in range(0, len(records), layout.REQUEST_EVENTS_MAX):
            part = records[start : start + layout.REQUEST_EVENTS_MAX]
            results = await create(part)
            refused = np.flatnonzero(results["status"] != layout.CREATED)
            if len(refused):
                number = int(results["status"][refused[0]])
                status = layout.STATUS_NAMES[name[:-1].upper()][number]
                raise click.ClickException(
                    f"{len(refused)} {name} were refused; the first, {start + refused[0]}: {status}"
                )
            progress.advance(task, len(part))


async def read_back(client: Client, days: list[AccountDay], progress: Progress) -> list[int]:
    """Return the ledger's balance at the end of each account-day, in order of the days."""
    balances = [0] * len(days)
    task = progress.add_task("reading balances", total=len(days))
    work = iter(enumerate(days))

    async def reader() -> None:
        for place, day in work:
            last_ns = start_of(day.date) + NS_PER_DAY - 1
            balance = await client.balance_at(day.account_id, last_ns)
            balances[place] = balance.credits_posted - balance.debits_posted
            progress.advance(task)

    await asyncio.gather(*(reader() for _ in range(READS_IN_FLIGHT)))
    return balances


async def run(url: str, api_key: str | None, directory: Path, quiet: bool) -> dict[str, object]:
    """Load, read back and compare; return the figures."""
    transactions = read_transactions(directory / "trans.asc")
    days = account_days(transactions)
    accounts = account_records(directory, transactions[0].date)
    transfers = transfer_records(transactions)
    with Progress(disable=quiet) as progress:
        async with Client(url, api_key=api_key, exists="always") as client:
            began = time.perf_counter()
            await post(client, accounts, transfers, progress)
            posted = time.perf_counter()
            balances = await read_back(client, days, progress)
            read = time.perf_counter()
    differing: dict[date, int] = defaultdict(int)
    exact = 0
    for day, balance in zip(days, balances, strict=True):
        difference = min(abs(balance - stated) for stated in day.stated_balances)
        exact += difference == 0
        if difference > day.allowance:
            differing[day.date] += 1
    return {
        "accounts": len(accounts),
        "transfers": len(transfers),
        "post_seconds": round(posted - began, 2),
        "account_days": len(days),
        "read_seconds": round(read - posted, 2),
        "agree": len(days) - sum(differing.values()),
        "agree_to_the_last_digit": exact,
        "differ_by_day": {day.isoformat(): count for day, count in sorted(differing.items())},
        "last_day": transactions[-1].date.isoformat(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@click.command()
@click.option("--url", required=True, help="The running ledger, for example http://127.0.0.1:7447")
@click.option("--api-key", envvar="SANYUAN_API_KEY", help="A key with write and read scopes.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(url: str, api_key: str | None, as_json: bool, directory: Path) -> None:
    """Load the Czech bank in DIRECTORY into a running ledger and compare every balance.

    Exit code 1 when a balance differs on any day but the last, where the file is cut.
    """
    figures = asyncio.run(run(url, api_key, directory, quiet=as_json))
    differ: dict[str, int] = figures["differ_by_day"]  # type: ignore[assignment]
    if as_json:
        click.echo(json.dumps(figures, indent=1))
    else:
        click.echo(
            f"{figures['transfers']:,} transfers on {figures['accounts']:,} accounts posted in"
            f" {figures['post_seconds']} s; {figures['account_days']:,} balances read in"
            f" {figures['read_seconds']} s.\n"
            f"{figures['agree']:,} of {figures['account_days']:,} account-days agree with the bank."
        )
        for day, count in differ.items():
            cut = ", the day on which the file is cut" if day == figures["last_day"] else ""
            click.echo(f"{count} differ on {day}{cut}.")
    if any(day != figures["last_day"] for day in differ):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
