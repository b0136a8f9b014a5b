"""Every recipe of docs/recipes.md, run as it stands there, over HTTP against a server of its
own.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.cli.process import ServerProcess
from ledger.proof import signing
from ledger.proof.notes import parse_note
from ledger.storage import directory as data_directory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
URL = "http://127.0.0.1:7447"
BANK = "The bank"
WANTED = {
    "payroll",
    "one partial capture",
    "several captures",
    "reversal",
    "fee",
    "foreign exchange",
    "overdraft",
    "blocked account",
    "closing",
    "business-day statement",
}


def recipes() -> dict[str, str]:
    """Return the code of each section of the page, by its heading; line numbers are those of
    the page.
    """
    found: dict[str, str] = {}
    for match in re.finditer(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M):
        blocks = list(re.finditer(r"^```python\n(.*?)^```$", match[2], re.S | re.M))
        code = "\n".join(block[1] for block in blocks)
        if code:
            found[match[1]] = code
    return found


RECIPES = recipes()


async def execute(name: str, scope: dict[str, Any]) -> None:
    """Run a section's code, which may await at its top level, as ``python -m asyncio`` would."""
    tree = ast.parse(RECIPES[name].replace(URL, scope["url"]))
    compiled = compile(
        tree, f"docs/recipes.md: {name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    running = eval(compiled, scope)
    if inspect.isawaitable(running):
        await running


@pytest.mark.parametrize("name", [name for name in RECIPES if name != BANK])
async def test_recipe(name: str, tmp_path: Path) -> None:
    data_directory.create(tmp_path / "data")
    with ServerProcess(tmp_path / "data") as server:
        scope: dict[str, Any] = {"url": server.url}
        try:
            await execute(BANK, scope)
            await execute(name, scope)
            lines = await scope["client"].trial_balance()
            for ledger in {line.ledger for line in lines}:
                of_ledger = [line for line in lines if line.ledger == ledger]
                assert sum(line.debits_posted - line.credits_posted for line in of_ledger) == 0
        finally:
            if "client" in scope:
                await scope["client"].close()


def test_every_recipe_checks_what_it_says() -> None:
    for name, code in RECIPES.items():
        asserts = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assert)]
        assert asserts, f"{name} asserts nothing"


def test_the_page_has_the_recipes_that_it_must_have() -> None:
    headings = " ".join(RECIPES).lower()
    assert not [name for name in WANTED if name not in headings]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_session_of_the_readme(tmp_path: Path) -> None:
    text = (PAGE.parent.parent / "README.md").read_text()
    session = text[text.index("## A first session") : text.index("## A tour")]
    _, block, audit = re.findall(r"^```sh\n(.*?)^```$", session, re.S | re.M)
    # The sanitizers of a debug build are for Python, not for curl.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    data_directory.create(tmp_path / "data")
    signing.create_key(tmp_path / "data/signing-key", name="bank.example/ledger", passphrase=None)
    with ServerProcess(tmp_path / "data") as server:
        script = block.replace(URL, server.url).replace("\ncurl", "\necho; curl")
        done = subprocess.run(
            ["bash", "-euc", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
        proven = subprocess.run(
            ["bash", "-euc", f'sanyuan() {{ {sys.executable} -m ledger "$@"; }}\n{audit}'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "SANYUAN_URL": server.url, "PYTHONPATH": str(PAGE.parents[1])},
        )
    assert done.returncode == 0, done.stderr
    assert proven.returncode == 0, proven.stdout + proven.stderr
    assert "is in block 1 of the journal" in proven.stdout
    output, name, checkpoint = done.stdout.partition("bank.example/ledger\n")
    note = parse_note(name + checkpoint)
    assert signing.read_policy(tmp_path / "data/signing-key").approve(note).checkpoint.size >= 1
    answers = [json.loads(line) for line in output.splitlines() if line.strip()]
    statuses = [
        [result["status"] for result in answer["results"]]
        for answer in answers
        if "results" in answer
    ]
    assert statuses == [["created", "created"], ["created"], ["exists"], ["exceeds_credits"]]
    account, statement, trial = answers[4:]
    assert (account["balance"], account["available"]) == ("10000", "10000")
    assert [line["amount"] for line in statement["data"]] == ["10000"]
    assert trial["totals"][0]["debits_posted"] == trial["totals"][0]["credits_posted"] == "10000"
