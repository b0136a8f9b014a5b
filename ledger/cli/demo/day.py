"""A bank's day, posted over HTTP: accounts, salaries, purchases, card holds, interest; and the list
of what must hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table

from ledger import layout
from ledger.cli.console import bar, console, money
from ledger.client import Client, Records

LEDGER: Final = 156
"""Chinese yuan, by the number of ISO 4217."""
CUSTOMER, EMPLOYER, SHOP, BANK_CASH, INTEREST = 2011, 2012, 2013, 1001, 5201
CODE_NAMES: Final = {
    CUSTOMER: "customers",
    EMPLOYER: "employers",
    SHOP: "shops",
    BANK_CASH: "central bank",
    INTEREST: "interest paid",
}
SALARY, PURCHASE, HOLD, INTEREST_PAYMENT, DEPOSIT = range(1, 6)
EMPLOYERS: Final = 50
SHOPS: Final = 200
REQUESTS_IN_FLIGHT: Final = 4
TODAY: Final = date(2026, 1, 5)
TOMORROW: Final = date(2026, 1, 6)
"""Business dates: of the day that is played, and of the one that begins when it is over."""


@dataclass(slots=True)
class Check:
    """Something that must hold, and whether it does."""

    sentence: str
    holds: bool


@dataclass(slots=True)
class Day:
    """The demo's state: who has accounts, what was counted, what was checked."""

    customers: int
    rng: np.random.Generator
    next_id: int
    quiet: bool
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    drawing: bool = False
    posted: int = 0
    seconds: float = 0.0

    def check(self, sentence: str, holds: bool) -> None:
        """Note something that must hold, and say it."""
        self.checks.append(Check(sentence, holds))
        self.unsaid.append(f"  {'[green]✓[/]' if holds else '[red]✗[/]'} {sentence}")
        if not self.drawing:
            self.say_checks()

    def say_checks(self) -> None:
        """Print what was checked since the last time."""
        if not self.quiet:
            for line in self.unsaid:
                console.print(line, soft_wrap=True)
        self.unsaid.clear()

    @contextmanager
    def bars(self) -> Iterator[Progress]:
        """Draw progress; what is checked meanwhile is said afterwards."""
        with bar(quiet=self.quiet) as display:
            self.drawing = True
            try:
                yield display
            finally:
                self.drawing = False
        self.say_checks()

    def say(self, text: str) -> None:
        """Begin a section."""
        if not self.quiet:
            console.print(f"\n[bold]{text}[/]")

    def ids(self, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return ``count`` new ids, in order of time."""
        first, self.next_id = self.next_id, self.next_id + count
        return np.arange(first, first + count, dtype=np.uint64)

    # Accounts by number, in blocks, so that numpy can pick them.
    def customer(self, count: int) -> np.ndarray[Any, Any]:
        """Return random customers' account ids."""
        return 1_000_000 + self.rng.integers(0, self.customers, count, dtype=np.uint64)

    def shop(self, count: int) -> np.ndarray[Any, Any]:
        """Return random shops' account ids."""
        return 20_000 + self.rng.integers(0, SHOPS, count, dtype=np.uint64)

    @property
    def all_customers(self) -> np.ndarray[Any, Any]:
        """Every customer's account id."""
        return np.arange(1_000_000, 1_000_000 + self.customers, dtype=np.uint64)


CASH_ID: Final = 1
INTEREST_ID: Final = 2
EMPLOYER_IDS: Final = np.arange(10_000, 10_000 + EMPLOYERS, dtype=np.uint64)
SHOP_IDS: Final = np.arange(20_000, 20_000 + SHOPS, dtype=np.uint64)


def transfers(
    day: Day,
    debit: Any,
    credit: Any,
    amount: Any,
    code: int,
    *,
    count: int,
    flags: int = 0,
    pending: Any = 0,
    timeout: int = 0,
) -> Records:
    """Return ``count`` new transfers; every argument is one value or an array of them."""
    records = np.zeros(count, layout.TRANSFER)
    records["id"]["lo"] = day.ids(count)
    records["debit_account_id"]["lo"] = debit
    records["credit_account_id"]["lo"] = credit
    records["amount"]["lo"] = amount
    records["pending_id"]["lo"] = pending
    records["user_data_32"] = 20260105
    records["timeout"] = timeout
    records["ledger"] = LEDGER
    records["code"] = code
    records["flags"] = flags
    return records


def opening_records(day: Day) -> Records:
    """Return every account of the bank."""
    groups: list[tuple[Any, int, tuple[str, ...]]] = [
        (np.array([CASH_ID]), BANK_CASH, ()),
        (np.array([INTEREST_ID]), INTEREST, ()),
        (EMPLOYER_IDS, EMPLOYER, ("debits_must_not_exceed_credits",)),
        (SHOP_IDS, SHOP, ("debits_must_not_exceed_credits",)),
        (day.all_customers, CUSTOMER, ("debits_must_not_exceed_credits",)),
    ]
    records = np.zeros(sum(len(ids) for ids, _, _ in groups), layout.ACCOUNT)
    start = 0
    for ids, code, flags in groups:
        part = records[start : start + len(ids)]
        part["id"]["lo"], part["ledger"], part["code"] = ids, LEDGER, code
        part["flags"] = layout.flag_mask("ACCOUNT", *flags)
        start += len(ids)
    return records


async def post_all(
    day: Day, create: Callable[[Records], Any], records: Records, display: Progress, title: str
) -> int:
    """Post records in full requests, a few at a time; return how many were created."""
    task = display.add_task(f"{title:<28}", total=len(records))
    starts = iter(range(0, len(records), layout.REQUEST_EVENTS_MAX))
    created = 0
    began = time.perf_counter()

    async def poster() -> None:
        nonlocal created
        for start in starts:
            part = records[start : start + layout.REQUEST_EVENTS_MAX]
            sent = time.perf_counter()
            results = await create(part)
            day.latencies.append(time.perf_counter() - sent)
            created += int((results["status"] == layout.CREATED).sum())
            display.advance(task, len(part))

    await asyncio.gather(*(poster() for _ in range(REQUESTS_IN_FLIGHT)))
    day.seconds += time.perf_counter() - began
    day.posted += created
    return created


async def open_books(day: Day, client: Client, display: Progress) -> None:
    """Declare the currency and the codes, open every account, and bring in the employers' money."""
    definitions = [
        {"id": 1, "kind": "ledger", "ledger": LEDGER, "exponent": 2,
         "metadata": {"currency": "CNY", "name": "yuan"}},
        *(
            {"id": code, "kind": "code", "code": code, "metadata": {"name": name},
             "flags": ["normal_side_credit"] if code < 5000 and code != BANK_CASH else []}
            for code, name in CODE_NAMES.items()
        ),
    ]  # fmt: skip
    defined = await client.define(definitions)
    accounts = opening_records(day)
    opened = await post_all(day, client.create_accounts, accounts, display, "opening accounts")
    day.posted = 0
    day.seconds = 0.0
    day.latencies.clear()
    capital = transfers(day, CASH_ID, EMPLOYER_IDS, 10**12, DEPOSIT, count=EMPLOYERS)
    deposited = await client.create_transfers(capital)
    day.check(
        f"{opened:,} accounts opened",
        opened == len(accounts)
        and all(result.created for result in defined)
        and bool((deposited["status"] == layout.CREATED).all()),
    )


async def post_the_day(day: Day, client: Client, display: Progress, purchases: int) -> None:
    """Salaries, purchases, holds posted and voided, interest."""
    employers = EMPLOYER_IDS[day.rng.integers(0, EMPLOYERS, day.customers)]
    salaries = transfers(
        day,
        employers,
        day.all_customers,
        day.rng.lognormal(13.5, 0.5, day.customers).astype(np.uint64),
        SALARY,
        count=day.customers,
    )
    await post_all(day, client.create_transfers, salaries, display, "salaries")

    bought = transfers(
        day,
        day.customer(purchases),
        day.shop(purchases),
        day.rng.lognormal(7.0, 1.0, purchases).astype(np.uint64) + 1,
        PURCHASE,
        count=purchases,
    )
    created = await post_all(day, client.create_transfers, bought, display, "purchases")
    day.figures["purchases_declined"] = purchases - created
    day.check(
        f"{purchases - created:,} of {purchases:,} purchases were declined for want of money",
        created > purchases * 0.99,
    )

    held = transfers(
        day,
        day.customer(day.customers),
        day.shop(day.customers),
        day.rng.integers(100, 20_000, day.customers, dtype=np.uint64),
        HOLD,
        count=day.customers,
        flags=layout.flag_mask("TRANSFER", "pending"),
        timeout=7 * 86_400,
    )
    await post_all(day, client.create_transfers, held, display, "card holds")
    found = await client.lookup_transfers(int(number) for number in held["id"]["lo"][:1])
    day.check("a hold can be looked up", found[0] is not None and found[0].flags == ("pending",))

    voided = np.arange(len(held)) % 3 == 0
    resolved = transfers(
        day,
        0,
        0,
        np.where(voided, 0, held["amount"]["lo"] // 2 + 1),
        0,
        count=len(held),
        flags=np.where(
            voided,
            layout.flag_mask("TRANSFER", "void_pending_transfer"),
            layout.flag_mask("TRANSFER", "post_pending_transfer"),
        ),  # type: ignore[arg-type]
        pending=held["id"]["lo"],
    )
    resolved["ledger"] = 0
    done = await post_all(
        day, client.create_transfers, resolved, display, "holds posted and voided"
    )
    day.figures["holds_resolved"] = done

    interest = transfers(
        day,
        INTEREST_ID,
        day.all_customers,
        day.rng.integers(1, 500, day.customers, dtype=np.uint64),
        INTEREST_PAYMENT,
        count=day.customers,
    )
    await post_all(day, client.create_transfers, interest, display, "interest")


async def begin_business_day(day: Day, client: Client, to: date) -> None:
    """Move the business date; the state of all accounts at that moment is kept under one hash."""
    moved = await client.move_business_date({"id": int(day.ids(1)[0]), "date": f"{to}"})
    day.check(f"the business date is {to}", moved.status == "created")


async def refuse_an_overdraft(day: Day, client: Client) -> None:
    """Try to spend more than an account has, and show why the ledger refuses."""
    customer = int(day.all_customers[0])
    account = await client.account(customer)
    wanted = account.credits_posted - account.debits_posted - account.debits_pending + 1
    attempt = {
        "id": int(day.ids(1)[0]), "debit_account_id": customer, "credit_account_id": 20_000,
        "amount": wanted, "ledger": LEDGER, "code": PURCHASE,
    }  # fmt: skip
    (result,) = await client.create_transfers([attempt], explain=True)
    after = await client.account(customer)
    day.check(
        f"spending {money(wanted)} of {money(wanted - 1)} available is refused: {result.status}",
        result.status == "exceeds_credits" and after.debits_posted == account.debits_posted,
    )


async def trial_balance(day: Day, client: Client, *, show: bool) -> dict[str, int]:
    """Read the trial balance, check that it cancels to zero, and draw it."""
    lines = await client.trial_balance(ledger=LEDGER)
    sums = {
        name: sum(getattr(line, name) for line in lines)
        for name in ("debits_posted", "credits_posted", "debits_pending", "credits_pending")
    }
    if show and not day.quiet:
        table = Table(box=None, padding=(0, 2), header_style="dim", show_footer=True)
        table.add_column("", footer="sum", no_wrap=True)
        table.add_column("accounts", justify="right", no_wrap=True)
        table.add_column(
            "debits", justify="right", no_wrap=True, footer=money(sums["debits_posted"])
        )
        table.add_column(
            "credits", justify="right", no_wrap=True, footer=money(sums["credits_posted"])
        )
        difference = sums["credits_posted"] - sums["debits_posted"]
        table.add_column(
            "credits - debits", justify="right", no_wrap=True, footer=money(difference)
        )
        for line in lines:
            table.add_row(
                CODE_NAMES.get(line.code, str(line.code)),
                f"{line.account_count:,}",
                money(line.debits_posted),
                money(line.credits_posted),
                money(line.credits_posted - line.debits_posted),
            )
        console.print(Padding(table, (0, 0, 0, 2)))
    day.check(
        "the trial balance cancels to zero, posted and pending",
        sums["debits_posted"] == sums["credits_posted"]
        and sums["debits_pending"] == sums["credits_pending"],
    )
    return sums
