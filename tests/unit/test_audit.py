"""``sanyuan audit`` against a served ledger, and what an auditor does with what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.cli.process import ServerProcess
from ledger.proof import signing
from tests.unit.test_cli import Done, sanyuan


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a served bank, and the folder of its public policy."""
    folder = tmp_path_factory.mktemp("audit")
    assert sanyuan("init", folder / "ledger").returncode == 0
    key = folder / "ledger" / signing.DEFAULT_NAME
    if not key.exists():
        signing.create_key(key, name="bank.example/ledger", passphrase=None)
    (folder / "policy.txt").write_bytes(bytes(signing.read_policy(key)))
    with ServerProcess(folder / "ledger") as server:
        url = ("--url", server.url)

        def post(kind: str, *events: dict[str, Any]) -> None:
            done = sanyuan("post", kind, *url, stdin=json.dumps(list(events)))
            assert done.returncode == 0, done.stdout + done.stderr

        post("accounts", *({"id": i, "ledger": 156, "code": 10 * i} for i in (1, 2, 3)))
        post("business-date", {"id": 90, "date": "2026-03-01"})
        base = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 156, "code": 1}
        post("transfers", *({"id": 100 + n, "amount": 1 + n, **base} for n in range(20)))
        post("business-date", {"id": 91, "date": "2026-03-02"})
        yield server.url, folder
        assert server.stop() == 0


@pytest.fixture
def at(bank: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return bank[0]


def audit(*arguments: object, code: int = 0) -> Done:
    done = sanyuan("audit", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def verified(bank: tuple[str, Path], file: Path, *arguments: str) -> Done:
    """What the command that runs the verifier leaves, in a process of its own."""
    command = [sys.executable, "-m", "ledger", "audit", "verify", str(file)]
    done = subprocess.run(
        [*command, "--policy", str(bank[1] / "policy.txt"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_state_root_is_made_and_listed(bank: tuple[str, Path], at: str) -> None:
    made = json.loads(audit("state-roots", "--url", at, "--make", "--json").stdout)
    blocks = [root["block"] for root in made["state_roots"]]
    assert made["made"] in blocks
    shown = audit("state-roots", "--url", at).stdout
    assert "2026-03-02" in shown
    assert "business date" in shown


def test_proofs_are_written_described_and_hold(bank: tuple[str, Path], at: str) -> None:
    audit("state-roots", "--url", at, "--make", "--json")
    for arguments, name, words in (
        (("proof", "transfer", 105), "transfer-105.json", ("1 entry",)),
        (("proof", "account", 2), "account-2.json", ("1 account", "state root")),
        (("statement", 2), "statement-2.json", ("account 2, 21 entries",)),
        (("trial-balance",), "trial-balance.json", ("156", "210", "debits posted")),
        (("sample", "--n", 5, "--seed", "x"), "sample.json", ("5 entry", "1 sample")),
    ):
        shown = audit(*arguments, "--url", at)
        for word in (*words, "bank.example/ledger"):
            assert word in shown.stdout, (word, shown.stdout)
        done = verified(bank, Path(name))
        assert done.returncode == 0, done.stdout
        assert verified(bank, Path(name), "--origin", "other").returncode == 1
    body = audit("proof", "transfer", 105, "--url", at, "--json").stdout
    Path("shown.json").write_text(body)
    assert verified(bank, Path("shown.json")).returncode == 0
    facts = json.loads(
        audit("proof", "transfer", 105, "--url", at, "--json", "-o", "kept.json").stdout
    )
    assert facts["items"] == {"entry": 1}
    assert facts["bytes"] == Path("kept.json").stat().st_size
    hidden = audit("proof", "transfer", 105, "--hide", "debit", "--url", at, "--json").stdout
    assert isinstance(json.loads(hidden)["items"][0]["debit"], str)


def test_a_statement_of_a_day(bank: tuple[str, Path], at: str) -> None:
    period = ("--from", "2026-03-01", "--to", "2026-03-01")
    audit("statement", 2, *period, "--url", at, "--counterparties")
    done = verified(bank, Path("statement-2.json"), *period)
    assert done.returncode == 0, done.stdout
    assert verified(bank, Path("statement-2.json"), "--to", "2026-03-02").returncode == 1


def test_packages_of_accounts_and_of_all(bank: tuple[str, Path], at: str) -> None:
    audit("state-roots", "--url", at, "--make", "--json")
    shown = audit("export", "--url", at, "--account", 1, "--account", 2, "two.zip").stdout
    assert "statement-1.csv" in shown
    assert verified(bank, Path("two.zip"), "--account", "1", "--account", "2").returncode == 0
    facts = json.loads(audit("export", "--url", at, "--all", "all.zip", "--json").stdout)
    assert facts["files"]["state.bin"] == 3 * 192
    assert facts["bytes"] == Path("all.zip").stat().st_size
    done = verified(bank, Path("all.zip"), "--json")
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile("all.zip") as package:
        assert package.testzip() is None
    # What fails leaves no file that looks like a package.
    assert audit("export", "--url", at, "--account", 7, "none.zip", code=9).stdout == ""
    assert sorted(path.name for path in Path().iterdir()) == ["all.zip", "two.zip"]


def test_command_lines_that_contradict_themselves(at: str) -> None:
    for arguments in (
        ("export", "x.zip"),
        ("export", "--all", "--account", "1", "x.zip"),
        ("sample",),
        ("sample", "--seed", "x", "--witness", "y"),
        ("proof", "transfer", "1", "--at", "2026-01-01"),
        ("proof", "account", "1", "--hide", "debit"),
        ("trial-balance", "--tile", "1:2"),
    ):
        audit(*arguments, code=2)
    assert audit("proof", "transfer", 999, "--url", at, code=9).stdout == ""


def test_the_verifier_is_run_as_it_is(bank: tuple[str, Path], tmp_path: Path) -> None:
    missing = verified(bank, tmp_path / "none.json")
    assert missing.returncode == 2
    assert "Traceback" not in missing.stdout + missing.stderr
    command = [sys.executable, "-m", "ledger", "audit", "verify", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "BUNDLE" in done.stdout
