"""Cases as text: requests, what each event must answer, and the balances after them.

A file holds cases, each with a name (``== name``), sentences (``# ...``) and a ledger of its own.

at 12s                      the next request is decided at 12 seconds (the default: one second
                            after the last; the first one at 1s)
accounts [dry_run]          a request; its events follow, one a row, indented:
    id field=value flag | status [@time]
transfers, settings, definitions, business_date       the same
expire | count              the sweep of due pending transfers
account id field=value flag             what a look-up answers, in the fields that are named
transfer id field=value flag            the same for a transfer
nothing id ...                          transfers that do not exist
transfers_of id field=value flag | ids              get_account_transfers
balances_of id field=value flag | dp+d/cp+c ...     get_account_balances
query_accounts field=value flag | ids
query_transfers field=value flag | ids
change_events field=value | type:id ...

Values are integers, ``max`` (2^128-1) or ``max-1``, times ``3s`` or ``3s+5`` (nanoseconds after),
``id`` (the row's own). ``first..last`` as an id is one row for many events. ``debit``, ``credit``
and ``of`` are short for debit_account_id, credit_account_id and pending_id; ``debits=1+2`` and
``credits=1+2`` for pending + posted; ``metadata=x`` attaches ``{"note":"x"}``, ``vkey=x`` attaches
``{"vkey":"x"}``. What a row does not name is ledger=1 code=1; for transfers also debit=1 credit=2,
unless they post or void; the limit of a query is 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ledger import layout

FILES = sorted(Path(__file__).parent.glob("*.txt"))
Record = dict[str, Any]
SECOND = 10**9
SHORT = {"debit": "debit_account_id", "credit": "credit_account_id", "of": "pending_id"}
REQUESTS = {  # heading: method, kind of flags, kind of statuses, default fields
    "accounts": ("create_accounts", "ACCOUNT", "ACCOUNT"),
    "transfers": ("create_transfers", "TRANSFER", "TRANSFER"),
    "settings": ("change_settings", "ACCOUNT_SETTINGS", "ADMINISTRATIVE"),
    "definitions": ("define", "DEFINITION", "ADMINISTRATIVE"),
    "business_date": ("move_business_date", "", "ADMINISTRATIVE"),
}
QUERIES = {  # step: method, kind of flags
    "transfers_of": ("get_account_transfers", "ACCOUNT_FILTER"),
    "balances_of": ("get_account_balances", "ACCOUNT_FILTER"),
    "query_accounts": ("query_accounts", "QUERY_FILTER"),
    "query_transfers": ("query_transfers", "QUERY_FILTER"),
    "change_events": ("get_change_events", ""),
}
CHANGE_TYPES = {number: name for name, (number, _) in layout.CHANGE_EVENT_TYPES.items()}


class Ledger(Protocol):
    """What a table runs on: the oracle, or an adapter of ``ledger.State``."""

    def create_accounts(self, events: Any, timestamp_ns: int, metadata: Any, dry_run: bool) -> Any:
        """Return (status, timestamp) of each event; the other requests look the same."""

    def expire(self, timestamp_ns: int) -> int:
        """Return how many pending transfers expired."""

    def lookup_accounts(self, ids: list[int]) -> list[Record]:
        """Return those that exist; the other look-ups and queries answer records too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event of a request and what it must answer."""

    events: list[Record]
    flags: list[str]
    metadata: bytes
    status: str
    time: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """One request, look-up or query of a case."""

    word: str
    rest: str
    line: int
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a file."""

    path: Path
    name: str
    steps: list[Step]
    text: list[str]

    def __str__(self) -> str:
        return f"{self.path.stem}: {self.name}"


@dataclass(slots=True)
class Reached:
    """What a run of tables reached: (kind, status name), and (kind, flag name) that took effect."""

    statuses: set[tuple[str, str]] = field(default_factory=set)
    flags: set[tuple[str, str]] = field(default_factory=set)


def value(text: str, own_id: int = 0) -> int:
    """Return the integer that a value of the tables stands for."""
    if text == "id":
        return own_id
    if text.startswith("max"):
        return layout.U128_MAX - int(text[4:] or 0)
    if "s" in text:
        seconds, _, nanoseconds = text.partition("s")
        return int(seconds) * SECOND + int(nanoseconds or 0)
    return int(text, 0)


def fields(words: list[str], flag_kind: str, own_id: int = 0) -> tuple[Record, list[str], bytes]:
    """Return the fields, the flag names and the metadata that the words of a row name."""
    record: Record = {}
    flags, metadata = [], b""
    for word in words:
        name, given, text = word.partition("=")
        if not given:
            record["flags"] = record.get("flags", 0) | layout.flag_mask(flag_kind, name)
            flags.append(name)
        elif name == "metadata":
            metadata = f'{{"note":"{text}"}}'.encode()
        elif name == "vkey":
            metadata = f'{{"vkey":"{text}"}}'.encode()
        elif name in ("debits", "credits"):
            pending, _, posted = text.partition("+")
            record[f"{name}_pending"], record[f"{name}_posted"] = value(pending), value(posted)
        elif name == "flags":
            record["flags"] = record.get("flags", 0) | value(text)
        else:
            record[SHORT.get(name, name)] = value(text, own_id)
    return record, flags, metadata


def _ids(text: str) -> list[int]:
    if ".." not in text:
        return [value(text)]
    first, last = text.split("..")
    return list(range(value(first), value(last) + 1))


def _row(word: str, line: str, number: int) -> Row:
    event, _, answer = line.partition("|")
    first, *words = event.split()
    status, _, time = answer.strip().partition(" @")
    _, flag_kind, status_kind = REQUESTS[word]
    if status not in layout.STATUS_NUMBERS[status_kind]:
        raise ValueError(f"line {number}: no status {status!r}")
    events = []
    for own_id in _ids(first):
        given, flags, metadata = fields(words, flag_kind, own_id)
        defaults: Record = {}
        if word == "accounts":
            defaults = {"ledger": 1, "code": 1}
        if word == "transfers" and not {"post_pending_transfer", "void_pending_transfer"} & {
            *flags
        }:
            defaults = {"ledger": 1, "code": 1, "debit_account_id": 1, "credit_account_id": 2}
        events.append({**defaults, "id": own_id, **given})
    return Row(events, flags, metadata, status, value(time) if time else None, number)


def parse(path: Path) -> list[Case]:
    """Return the cases of a file; raise ``ValueError`` or ``KeyError`` for what has no meaning."""
    cases: list[Case] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("== "):
            cases.append(Case(path, line[3:].strip(), [], []))
            continue
        if not line.strip() or not cases:
            if cases:
                cases[-1].text.append("")
            continue
        case = cases[-1]
        case.text.append(line)
        if line.startswith("#"):
            continue
        if line.startswith(" "):
            case.steps[-1].rows.append(_row(case.steps[-1].word, line, number))
        else:
            word, _, rest = line.partition(" ")
            case.steps.append(Step(word, rest.strip(), number))
    return cases


def all_cases() -> list[Case]:
    """Return the cases of all files, in order."""
    return [case for path in FILES for case in parse(path)]


def run(case: Case, ledger: Any, reached: Reached | None = None) -> None:
    """Run one case on a new ledger; raise ``AssertionError`` at the first answer that differs."""
    reached = reached if reached is not None else Reached()
    clock = 0
    jump: int | None = None
    for step in case.steps:
        place = f"{case.path.name}:{step.line} ({case.name})"
        if step.word == "at":
            jump = value(step.rest)
        elif step.word in REQUESTS or step.word == "expire":
            clock, jump = (jump if jump is not None else clock + SECOND), None
            if step.word == "expire":
                expected = int(step.rest.lstrip("| "))
                assert ledger.expire(clock) == expected, place
            else:
                _request(step, ledger, clock, reached, case)
        elif step.word in QUERIES:
            _query(step, ledger, reached, place)
        else:
            _look_up(step, ledger, place)


def _request(step: Step, ledger: Any, clock: int, reached: Reached, case: Case) -> None:
    method, flag_kind, status_kind = REQUESTS[step.word]
    assert step.rest in ("", "dry_run"), f"{case.path.name}:{step.line}: {step.rest!r}"
    rows = [(row, event) for row in step.rows for event in row.events]
    metadata = {index: row.metadata for index, (row, _) in enumerate(rows) if row.metadata}
    events = [event for _, event in rows]
    results = getattr(ledger, method)(events, clock, metadata, step.rest == "dry_run")
    assert len(results) == len(events)
    for (row, event), (number, timestamp) in zip(rows, results, strict=True):
        status = layout.STATUS_NAMES[status_kind][number]
        place = f"{case.path.name}:{row.line} ({case.name}, id {event['id']})"
        assert status == row.status, f"{place}: {status}, expected {row.status}"
        if row.time is not None:
            assert timestamp == row.time, f"{place}: at {timestamp}, expected {row.time}"
        reached.statuses.add((status_kind, status))
        if status == "created":
            reached.flags.update((flag_kind, name) for name in row.flags)


def _query(step: Step, ledger: Any, reached: Reached, place: str) -> None:
    method, flag_kind = QUERIES[step.word]
    asked, _, expected = step.rest.partition("|")
    words = asked.split()
    given: Record = {}
    if step.word.endswith("_of"):
        given["account_id"] = value(words.pop(0))
    named, flags, _ = fields(words, flag_kind)
    answer = getattr(ledger, method)({"limit": 10, **given, **named})
    if step.word == "balances_of":
        found = [
            f"{r['debits_pending']}+{r['debits_posted']}/{r['credits_pending']}+{r['credits_posted']}"
            for r in answer
        ]
    elif step.word == "change_events":
        found = [f"{CHANGE_TYPES[r['type']]}:{r['transfer_id']}" for r in answer]
    else:
        found = [str(r["id"]) for r in answer]
    assert found == expected.split(), f"{place}: {found}, expected {expected.split()}"
    if found:
        reached.flags.update((flag_kind, name) for name in flags)


def _look_up(step: Step, ledger: Any, place: str) -> None:
    identifier, *words = step.rest.split()
    if step.word == "nothing":
        ids = [value(text) for text in step.rest.split()]
        assert ledger.lookup_transfers(ids) == [], place
        return
    kind = {"account": "ACCOUNT", "transfer": "TRANSFER"}[step.word]
    found = getattr(ledger, f"lookup_{step.word}s")([value(identifier)])
    assert len(found) == 1, f"{place}: found {len(found)}"
    expected, _, _ = fields(words, kind)
    actual = {name: found[0][name] for name in expected}
    assert actual == expected, f"{place}: {actual}, expected {expected}"


def _examples() -> dict[tuple[str, str], str]:
    """The first case that answers with each (kind, status name)."""
    found: dict[tuple[str, str], str] = {}
    for case in all_cases():
        for step in case.steps:
            for row in step.rows:
                found.setdefault((REQUESTS[step.word][2], row.status), case.name)
    return found


def _anchor(name: str) -> str:
    kept = "".join(letter for letter in name.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def render() -> Iterator[str]:
    """Yield the lines of Markdown that show every status with an example, and every case."""
    examples = _examples()
    yield from ("## Statuses, in order of precedence", "")
    yield from ("The statuses of *own* rules have numbers from 1000 on.", "")
    for kind, statuses in layout.STATUSES.items():
        yield from (f"### {kind.capitalize()}", "", "| number | status | when | burns | case |")
        yield "|---:|---|---|---|---|"
        for status in statuses:
            name = examples[kind, status.name]
            burns = "burns" if status.transient else ""
            link = f"[{name}](#{_anchor(name)})"
            yield f"| {status.number} | {status.name} | {status.doc} | {burns} | {link} |"
        yield ""
    yield from ("## Cases", "", "How to read them:", "", "```text")
    grammar = (__doc__ or "").partition("\n\n")[2].strip()
    yield from (*grammar.split("\n"), "```", "")
    for path in FILES:
        title = path.read_text().splitlines()[0].lstrip("# ")
        yield from (f"### {title}", "")
        for case in parse(path):
            yield from (f"#### {case.name}", "")
            prose = [line.lstrip("# ") for line in case.text if line.startswith("#")]
            yield from ([" ".join(prose), ""] if prose else [])
            rows = "\n".join(line for line in case.text if not line.startswith("#")).strip("\n")
            yield from ("```text", rows, "```", "")
