"""The OpenAPI document and the catalogue of errors: complete, typed, and true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import layout
from ledger.api import problems
from ledger.api.app import DOCUMENT, ROUTES
from tests.api.conftest import COMPLETE
from tests.api.harness import COMPONENTS, EXAMPLES, OPENAPI, SEEN, Service

ROOT = Path(__file__).parents[2]


def test_every_declared_status_was_seen(request: pytest.FixtureRequest) -> None:
    """Runs last: what the document promises, some test has made happen."""
    if not request.config.stash[COMPLETE]:
        pytest.skip("only when all of tests/api is run")
    declared = {
        (operation["operationId"], status)
        for methods in OPENAPI["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
        if status != "default"
    }
    assert sorted(declared - SEEN) == []


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from walk(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from walk(value)


def test_every_body_is_typed_and_every_reference_leads_somewhere() -> None:
    for methods in OPENAPI["paths"].values():
        for operation in methods.values():
            bodies = [*operation["responses"].values(), operation.get("requestBody")]
            for body in filter(None, bodies):
                for content in body["content"].values():
                    assert content["schema"], operation["operationId"]
            for parameter in operation["parameters"]:
                assert parameter["schema"], operation["operationId"]
    for part in walk(OPENAPI):
        if "$ref" in part:
            assert part["$ref"].rpartition("/")[2] in COMPONENTS
        if part.get("type") == "object" and "properties" in part:
            assert set(part["required"]) <= set(part["properties"])
            assert part["additionalProperties"] is False
        if part.get("type") == "array" and "items" in part:
            assert part["items"]
    names = [name for methods in OPENAPI["paths"].values() for name in methods]
    assert len(names) == len(ROUTES) == len(EXAMPLES)


def test_fields_of_the_layout_are_in_the_document() -> None:
    for component, record, left_out in (
        ("AccountEvent", "ACCOUNT", {"reserved"}),
        ("TransferEvent", "TRANSFER", set()),
        ("Account", "ACCOUNT", {"reserved"}),
        ("Transfer", "TRANSFER", set()),
        ("ChangeEvent", "CHANGE_EVENT", {"reserved"}),
    ):
        fields = {f.name for r in layout.RECORDS if r.name == record for f in r.fields}
        assert fields - left_out <= set(COMPONENTS[component]["properties"])
    flags = COMPONENTS["TransferEvent"]["properties"]["flags"]["items"]["enum"]
    assert flags == [flag.name for flag in layout.TRANSFER_FLAGS]
    statuses = set(COMPONENTS["Result"]["properties"]["status"]["enum"])
    assert statuses == {"created"} | {s.name for kind in layout.STATUSES.values() for s in kind}


async def test_the_document_is_served(service: Service) -> None:
    answer = await service.get("/openapi.json")
    assert answer.raw == DOCUMENT
    assert json.loads(answer.raw)["openapi"] == "3.1.0"


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    raised = set()
    for path in [*ROOT.glob("ledger/*.py*"), *ROOT.glob("ledger/*/*.py")]:
        not_served = path.name == "state.py" or path.parent.name in ("cli", "bench")
        if path.suffix in (".py", ".pyx") and not not_served:
            text = path.read_text()
            raised |= set(
                re.findall(r'(?:RequestRefused|Unavailable|Problem)\(\s*"([a-z_]+)"', text)
            )
    raised |= {"disk_nearly_full", "clock_jumped", "out_of_range", "wrong_type"}
    assert raised == set(problems.PROBLEMS)


def test_the_catalogue_is_whole_and_its_page_current() -> None:
    for code, kind in problems.PROBLEMS.items():
        assert kind.code == code
        assert 400 <= kind.status < 600
        assert (kind.status >= 500 or kind.status in (408, 409, 429)) >= (kind.retry != "no")
        for sentence in (kind.cause, kind.fix):
            assert sentence.endswith(".")
    assert (ROOT / "docs/errors.md").read_text() == problems.page()
