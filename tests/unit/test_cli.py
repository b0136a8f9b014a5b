"""The command line as a user runs it: exit codes, JSON, and what each command leaves behind."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ledger.cli import COMMANDS, main
from ledger.cli.console import EXIT_CODES, bytes_text, money
from ledger.cli.demo.auditing import Auditor
from ledger.cli.process import ServerProcess
from ledger.cli.remote import requests_of
from ledger.client import Client, Result
from ledger.errors import ConfigurationError, Unavailable

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def sanyuan(*arguments: object, stdin: str = "") -> Done:
    """Run a command in this process; a fault of the program is raised."""
    done = CliRunner().invoke(main, list(map(str, arguments)), input=stdin, prog_name="sanyuan")
    assert done.exit_code != 70, done.stderr
    return Done(done.exit_code, done.stdout, done.stderr)


def process(*arguments: object) -> Done:
    """Run a command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def answer(*arguments: object, stdin: str = "", code: int = 0) -> Any:
    done = sanyuan(*arguments, "--json", stdin=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = answer("init", tmp_path / "data")
    assert re.fullmatch("[0-9a-f]{32}", made["instance"])
    return tmp_path / "data"


@pytest.fixture
def server(directory: Path) -> Iterator[ServerProcess]:
    with ServerProcess(directory) as running:
        yield running


ACCOUNTS = [
    {"id": 1, "ledger": 7, "code": 10},
    {"id": 2, "ledger": 7, "code": 10, "flags": ["debits_must_not_exceed_credits"]},
    {"id": 3, "ledger": 7, "code": 20},
]


def transfer(id: int, debit: int, credit: int, amount: int, **more: object) -> dict[str, object]:
    return {
        "id": id, "debit_account_id": debit, "credit_account_id": credit, "amount": amount,
        "ledger": 7, "code": 1, **more,
    }  # fmt: skip


def fill(url: str) -> None:
    """Three accounts, and seven transfers between them."""
    answer("post", "--url", url, "accounts", stdin=json.dumps(ACCOUNTS))
    moves = [transfer(100 + i, 1, 2 + i % 2, 10 + i) for i in range(6)]
    moves.append(transfer(106, 1, 2, 5, flags=["pending"], metadata={"text": "Miete äö"}))
    results = answer("post", "--url", url, "transfers", stdin=json.dumps(moves))
    assert [one["status"] for one in results] == ["created"] * 7


# ----------------------------------------------------------------------------------------------
# Help and documents
# ----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_exit_code() -> None:
    done = process("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^\s*{code}\s+{re.escape(meaning)}$", done.stdout, re.M)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_every_command_has_help(name: str) -> None:
    done = sanyuan(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: sanyuan" in done.stdout


def test_operating_page_has_the_exit_codes() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


def test_unknown_command_and_missing_argument() -> None:
    assert sanyuan("frobnicate").returncode == 2
    assert sanyuan("verify").returncode == 2


# ----------------------------------------------------------------------------------------------
# A directory and its server
# ----------------------------------------------------------------------------------------------


def test_init_never_touches_what_is_there(directory: Path, tmp_path: Path) -> None:
    again = sanyuan("init", directory)
    assert again.returncode == 2
    assert "already" in again.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert sanyuan("init", tmp_path / "full").returncode == 2
    assert (tmp_path / "full/file").read_text() == "mine"


@pytest.mark.parametrize("command", ["status", "verify", "confirm-clock", "serve"])
def test_what_is_no_data_directory_is_said_so(command: str, tmp_path: Path) -> None:
    extra = ["--port", "0"] if command == "serve" else []
    done = (process if extra else sanyuan)(command, tmp_path / "nothing", *extra)
    assert done.returncode == 2
    assert "not a data directory" in done.stderr
    assert not (tmp_path / "nothing").exists()


def test_a_second_server_is_refused_and_the_first_goes_on(
    directory: Path, server: ServerProcess
) -> None:
    second = process("serve", directory, "--port", "0")
    assert second.returncode == 3
    assert f"process {server.process.pid}" in second.stderr
    assert sanyuan("verify", directory).returncode == 3
    assert answer("get", "--url", server.url, "readiness")["ready"] is True


def test_serve_says_where_it_listens_and_drains_when_told(directory: Path) -> None:
    with ServerProcess(directory) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
        fill(server.url)
        assert server.stop() == 0
    with ServerProcess(directory) as server:
        assert answer("get", "--url", server.url, "account", 2)["credits_posted"] == 10 + 12 + 14


def test_a_server_is_told_that_the_clock_is_right(directory: Path, server: ServerProcess) -> None:
    told = sanyuan("confirm-clock", directory)
    assert (told.returncode, str(server.process.pid) in told.stdout) == (0, True)
    fill(server.url)
    assert server.stop() == 0
    nobody = sanyuan("confirm-clock", directory)
    assert nobody.returncode == 2
    assert "no server" in nobody.stderr


def test_tls_is_served_with_the_files_that_are_given(directory: Path, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with ServerProcess(directory, arguments=files) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))

        async def opened() -> list[Result]:
            async with Client(server.url, tls=context) as client:
                return await client.create_accounts(ACCOUNTS)

        assert [one.status for one in asyncio.run(opened())] == ["created"] * 3
    assert process("serve", directory, "--port", "0", "--tls-cert", certificate).returncode == 2


def self_signed(path: Path) -> tuple[Path, Path]:
    """Return the files of a new key for 127.0.0.1 and of a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (path / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path / "certificate.pem", path / "key.pem"


def test_without_keys_only_loopback_is_served(directory: Path) -> None:
    done = process("serve", directory, "--port", "0", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "key" in done.stderr.lower()


def test_a_knob_out_of_range_stops_the_start(directory: Path) -> None:
    with pytest.raises(Unavailable, match="exit code 2"):
        ServerProcess(directory, environment={"SANYUAN_HOLDS": "0"})


def test_status_beside_a_server_and_after_it(directory: Path) -> None:
    empty = answer("status", directory)
    assert (empty["entries"], empty["in_use_by"]) == (0, None)
    with ServerProcess(directory) as server:
        fill(server.url)
        live = answer("status", directory)
        assert live["in_use_by"] == server.process.pid
        assert live["entries"] == 10
    after = answer("status", directory)
    assert after["in_use_by"] is None
    assert {k: after[k] for k in ("instance", "entries", "last_hash")} == {
        k: live[k] for k in ("instance", "entries", "last_hash")
    }
    assert "process" not in sanyuan("status", directory).stdout


# ----------------------------------------------------------------------------------------------
# Backup, restore, verify
# ----------------------------------------------------------------------------------------------


def test_a_backup_made_while_serving_restores_to_the_same_ledger(
    directory: Path, server: ServerProcess, tmp_path: Path
) -> None:
    fill(server.url)
    made = answer("backup", directory, tmp_path / "file")
    assert made["blocks"] >= 2
    assert sanyuan("backup", directory, tmp_path / "file").returncode == 2
    before = answer("trial-balance", "--url", server.url)
    restored = answer("restore", tmp_path / "file", tmp_path / "copy")
    assert restored["blocks"] == made["blocks"]
    assert sanyuan("restore", tmp_path / "file", tmp_path / "copy").returncode == 2
    verdict = answer("verify", tmp_path / "copy")
    assert verdict["clean"]
    assert (verdict["entries"], verdict["accounts"], verdict["metadata"]) == (10, 3, 1)
    with ServerProcess(tmp_path / "copy") as copy:
        assert answer("trial-balance", "--url", copy.url) == before
        assert answer("get", "--url", copy.url, "transfer", 106)["metadata"] == {"text": "Miete äö"}
        (again,) = answer(
            "post", "--url", copy.url, "transfers", stdin=json.dumps(transfer(100, 1, 2, 10))
        )
        assert again["status"] == "exists"


@pytest.mark.parametrize("place", [0, 40, -1, -40])
def test_a_damaged_or_cut_backup_is_refused(
    directory: Path, server: ServerProcess, tmp_path: Path, place: int
) -> None:
    fill(server.url)
    answer("backup", directory, tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    flipped = bytearray(whole)
    flipped[place] ^= 1
    for bad in (bytes(flipped), whole[:-5], whole + b"x"):
        (tmp_path / "bad").write_bytes(bad)
        done = sanyuan("restore", tmp_path / "bad", tmp_path / "copy")
        assert done.returncode in (5, 6), done.stderr
        assert not (tmp_path / "copy").exists()


def test_verify_is_clean_after_a_kill(directory: Path) -> None:
    with ServerProcess(directory) as server:
        fill(server.url)
        server.kill()
    verdict = answer("verify", directory)
    assert verdict["clean"]
    assert verdict["ids"] == 7
    assert verdict["last_hash"] == answer("status", directory)["last_hash"]


def test_verify_finds_a_flipped_byte_in_the_journal(directory: Path) -> None:
    with ServerProcess(directory) as server:
        fill(server.url)
        assert server.stop() == 0
    file = directory / "journal" / "data.mdb"
    data = bytearray(file.read_bytes())
    # Also in the copies of pages that LMDB no longer uses.
    for block in re.finditer(b"SANYUAN\0", bytes(data)):
        data[block.start() + 300] ^= 0x10
    file.write_bytes(bytes(data))
    verdict = answer("verify", directory, code=1)
    assert not verdict["clean"]
    assert any("block" in difference for difference in verdict["differences"])
    with pytest.raises(Unavailable, match="exit code 5"):
        ServerProcess(directory)


def test_verify_mends_a_lost_snapshot_and_id_index(directory: Path) -> None:
    with ServerProcess(directory) as server:
        fill(server.url)
        assert server.stop() == 0
    for part in ("state", "ids"):
        file = directory / part / "data.mdb"
        file.write_bytes(b"\xff" * file.stat().st_size)
    verdict = answer("verify", directory)
    assert verdict["clean"]
    assert len(verdict["notes"]) == 2
    assert answer("verify", directory)["notes"] == []


def posted(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


# ----------------------------------------------------------------------------------------------
# Talking to a server
# ----------------------------------------------------------------------------------------------


def test_post_get_statement_and_trial_balance(server: ServerProcess) -> None:
    fill(server.url)
    lines = answer("statement", "--url", server.url, 2)
    assert [line["amount"] for line in lines] == [10, 12, 14, 5]
    newest = answer("statement", "--url", server.url, 2, "--newest", "--limit", 2)
    assert [line["id"] for line in newest] == [line["id"] for line in lines[:1:-1]]
    shown = sanyuan("statement", "--url", server.url, 2)
    assert shown.returncode == 0
    assert " 14 " in shown.stdout  # minor units, as nobody said how many make one
    assert "0.14" in sanyuan("statement", "--url", server.url, 2, "--exponent", 2).stdout
    definition = {"id": "900", "kind": "ledger", "ledger": lines[0]["ledger"], "exponent": 3}
    reply = posted(server.url + "/v1/definitions", definition)
    assert reply["results"][0]["status"] == "created"
    assert "0.014" in sanyuan("statement", "--url", server.url, 2).stdout
    trial = answer("trial-balance", "--url", server.url)
    assert trial["balanced"] is True
    assert sum(line["debits_posted"] for line in trial["lines"]) == 75
    assert "balanced" in sanyuan("trial-balance", "--url", server.url).stdout
    account = sanyuan("get", "--url", server.url, "account", 2)
    assert "debits_must_not_exceed_credits" in account.stdout
    balance = answer("get", "--url", server.url, "balance", 2, "--at", str(lines[1]["timestamp"]))
    assert balance["credits_posted"] == 22
    assert sanyuan("get", "--url", server.url, "account", 99).returncode == 9
    assert sanyuan("get", "--url", server.url, "account").returncode == 2


def test_refusals_are_told_and_explained(server: ServerProcess) -> None:
    fill(server.url)
    done = sanyuan(
        "post", "--url", server.url, "--explain", "transfers",
        stdin=json.dumps([transfer(200, 2, 3, 1000), transfer(201, 1, 3, 1)]),
    )  # fmt: skip
    assert done.returncode == 1
    assert "event 0: exceeds_credits" in done.stdout
    assert "1 created, 0 existed, 1 refused" in done.stdout
    one = json.dumps(transfer(300, 1, 3, 1))
    dry = sanyuan("post", "--url", server.url, "--dry-run", "transfers", stdin=one)
    assert dry.returncode == 0
    assert sanyuan("get", "--url", server.url, "transfer", 300).returncode == 9


def test_lines_are_read_and_a_bad_one_is_named(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("\n".join(json.dumps(one) for one in ACCOUNTS))
    assert len(answer("post", "--url", server.url, "accounts", tmp_path / "good")) == 3
    (tmp_path / "bad").write_text(json.dumps(ACCOUNTS[0]) + "\n{")
    done = sanyuan("post", "--url", server.url, "accounts", tmp_path / "bad")
    assert done.returncode == 2
    assert "line 2" in done.stderr
    unknown = sanyuan("post", "--url", server.url, "accounts", stdin='{"id": 9, "color": 1}')
    assert unknown.returncode == 9
    assert "color" in unknown.stderr


def test_a_server_that_is_not_there() -> None:
    done = sanyuan("get", "--url", "http://127.0.0.1:9", "--timeout", "1", "account", 1)
    assert done.returncode == 7


def test_requests_never_cut_a_chain() -> None:
    linked = {"flags": ["linked"]}
    events: list[dict[str, Any]] = [{}, {}, linked, linked, {}, {}, {}]
    parts = [(start, len(part)) for start, part in requests_of(events, 4)]
    assert parts == [(0, 2), (2, 4), (6, 1)]
    with pytest.raises(ConfigurationError, match="chain"):
        list(requests_of([linked] * 9 + [{}], 4))
    assert [len(part) for _, part in requests_of([{}] * 9, 4)] == [4, 4, 1]


# ----------------------------------------------------------------------------------------------
# Keys
# ----------------------------------------------------------------------------------------------


def test_keys_are_made_shown_once_used_and_revoked(directory: Path) -> None:
    made = answer("api-keys", directory, "create", "--name", "core", "--scope", "admin")
    reader = answer("api-keys", directory, "create", "--name", "report", "--scope", "read")
    listed = answer("api-keys", directory, "list")
    assert [key["name"] for key in listed] == ["core", "report"]
    stored = (directory / "api-keys.json").read_text()
    assert made["key"].rsplit("_", 1)[1] not in stored
    with ServerProcess(directory, arguments=("--host", "0.0.0.0")) as server:
        url = f"http://127.0.0.1:{server.port}"
        events = json.dumps(ACCOUNTS)
        post = ("post", "--url", url, "accounts")
        assert sanyuan(*post, stdin=events).returncode == 9
        assert sanyuan(*post, "--api-key", reader["key"], stdin=events).returncode == 9
        assert sanyuan(*post, "--api-key", made["key"], stdin=events).returncode == 0
        get = ("get", "--url", url, "account", 1)
        assert sanyuan(*get, "--api-key", reader["key"]).returncode == 0
    assert answer("api-keys", directory, "revoke", "report")["id"] == reader["id"]
    assert sanyuan("api-keys", directory, "revoke", "report").returncode == 2
    assert [key["name"] for key in answer("api-keys", directory, "list")] == ["core"]
    assert sanyuan("api-keys", directory, "create", "--name", "none").returncode == 2


# ----------------------------------------------------------------------------------------------
# The demo
# ----------------------------------------------------------------------------------------------


def test_a_small_demo_holds_what_it_promises(tmp_path: Path) -> None:
    figures = answer(
        "demo", "--directory", tmp_path / "demo", "--customers", 500, "--purchases", 5000,
        "--seconds", 0.5,
    )  # fmt: skip
    assert all(check["holds"] for check in figures["checks"])
    sentences = " ".join(check["sentence"] for check in figures["checks"])
    for part in ("the statement is proven", "so is the trial balance", "witness", "did not fork"):
        assert part in sentences
    assert sentences.count("altered") == 2
    assert len(figures["checks"]) >= 17
    assert figures["log_size_after"] > figures["log_size_before_kill"] > 0
    assert figures["acknowledged_and_found"] == figures["acknowledged_before_kill"] > 0
    verdict = answer("verify", tmp_path / "demo")
    assert verdict["clean"]
    assert verdict["entries"] > 6000


def test_the_demo_notices_what_the_auditor_refuses(tmp_path: Path) -> None:
    policy = tmp_path / "policy.txt"
    policy.write_text("quorum none\n")
    auditor = Auditor(tmp_path / "auditor", policy)
    (auditor.folder / "bundle.json").write_text("{}\n")
    verdict = auditor.verify("bundle.json")
    assert verdict.status == 1
    assert "REFUSED" in verdict.refusal[0]
    assert auditor.verify("missing.json").status == 2


# ----------------------------------------------------------------------------------------------
# Numbers for people
# ----------------------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    assert [money(0), money(-5), money(123456), money(7, 0)] == ["0.00", "-0.05", "1,234.56", "7"]
    assert money(10**30 + 1, 3) == "1,000,000,000,000,000,000,000,000,000.001"
    assert [bytes_text(9_999), bytes_text(10_000), bytes_text(12_345_678)] == [
        "9,999 B", "10 kB", "12 MB"]  # fmt: skip
