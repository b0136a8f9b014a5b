"""Every recipe of docs/recipes.md, run as it stands there, over HTTP against a server of its
own.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.cli.process import ServerProcess
from ledger.proof.notes import parse_note
from ledger.proof.policy import parse_policy
from ledger.storage import directory

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.md"
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
    directory.create(tmp_path / "data")
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


def run(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """What a shell prints in a folder; its commands must succeed."""
    commands = "".join(
        f'{name}() {{ {sys.executable} {rest} "$@"; }}\n'
        for name, rest in (("sanyuan", "-m ledger"), ("python", ""))
    )
    # The sanitizers of a debug build are for Python, not for curl.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        ["bash", "-euc", commands + script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environment, "PYTHONPATH": str(ROOT), **more},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def served(command: str, folder: Path) -> ServerProcess:
    """A command of the page that serves, on a port that the system chooses."""
    words = shlex.split(re.sub(r" --port \d+", "", command))
    at = words.index("serve") + 1
    arguments = tuple(
        option if option.startswith("--") else str(folder / option) for option in words[at + 1 :]
    )
    return ServerProcess(folder / words[at], words=tuple(words[:at]), arguments=arguments)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_session_of_the_readme(tmp_path: Path) -> None:
    text = (PAGE.parent.parent / "README.md").read_text()
    session = text[text.index("## A first session") : text.index("## A tour")]
    start, block, audit = re.findall(r"^```sh\n(.*?)^```$", session, re.S | re.M)
    (tmp_path / "ledger").symlink_to(ROOT / "ledger")
    before, witness_command, between, server_command, _ = re.split(
        r"^sanyuan (.*) &$", start.replace(". .venv/bin/activate\n", ""), flags=re.M
    )
    run(before, tmp_path)
    with served(witness_command, tmp_path) as witness:
        run(between.replace("http://127.0.0.1:7448", witness.url), tmp_path)
        with served(server_command, tmp_path) as server:
            script = block.replace(URL, server.url).replace("\ncurl", "\necho; curl")
            done = run(script, tmp_path)
            proven = run(audit.replace(URL, server.url), tmp_path, SANYUAN_URL=server.url)
    assert "is in block 1 of the journal" in proven.stdout
    assert "These 2 entries are all the entries of account 2" in proven.stdout
    assert proven.stdout.count("1 of 1 witnesses cosigned; the quorum is met") == 2
    output, name, checkpoint = done.stdout.partition("bank.example/ledger\n")
    note = parse_note(name + checkpoint)
    policy = parse_policy((tmp_path / "policy.txt").read_bytes())
    assert policy.approve(note).checkpoint.size >= 1
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
