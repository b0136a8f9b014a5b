"""Every case of the tables on the oracle and on the ledger; together they reach everything."""

from __future__ import annotations

import pytest

from ledger import layout
from tests.model.adapter import StateLedger
from tests.model.reference import Reference
from tests.tables import runner

CASES = runner.all_cases()
QUERY_AND_EVENT_FLAGS = (
    "ACCOUNT",
    "TRANSFER",
    "ACCOUNT_SETTINGS",
    "DEFINITION",
    "ACCOUNT_FILTER",
    "QUERY_FILTER",
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case: runner.Case) -> None:
    runner.run(case, Reference())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ledger(case: runner.Case) -> None:
    runner.run(case, StateLedger())


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_every_status_and_every_flag_is_reached() -> None:
    reached = runner.Reached()
    for case in CASES:
        runner.run(case, StateLedger(), reached)
    statuses = {(kind, name) for kind, names in layout.STATUS_NUMBERS.items() for name in names}
    assert statuses - reached.statuses == set()
    flags = {(kind, flag.name) for kind in QUERY_AND_EVENT_FLAGS for flag in layout.FLAGS[kind]}
    assert flags - reached.flags == set()


def test_a_wrong_table_fails() -> None:
    case = next(case for case in CASES if case.name == "A transfer moves an amount at once")
    wrong = [
        runner.Step(
            step.word, step.rest.replace("debits=0+10", "debits=0+11"), step.line, step.rows
        )
        for step in case.steps
    ]
    with pytest.raises(AssertionError, match="debits_posted"):
        runner.run(runner.Case(case.path, case.name, wrong, []), Reference())
