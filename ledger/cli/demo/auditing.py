"""The auditor's part: witnesses, packages, the verifier in a folder of its own, and forgeries that
it must refuse.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.markup import escape

import ledger.proof
from ledger.cli.console import bytes_text, console
from ledger.cli.demo.day import TODAY, TOMORROW, Day
from ledger.cli.process import ServerProcess
from ledger.client import Client
from ledger.errors import Unavailable
from ledger.proof import signing
from ledger.proof.notes import parse_checkpoint, parse_note
from ledger.proof.policy import parse_policy
from ledger.proof.witness import create_key, policy_line
from ledger.storage import directory as data_directory

ORIGIN: Final = "bank.example/ledger"
WITNESSES: Final = ("supervisor", "university", "notary")
COVERED_WITHIN_S: Final = 60.0
LINE_SIZE: Final = 120
ENTRY_AMOUNT: Final = 3 + 16
"""Where the amount stands in an entry of a statement: after kind, side, bits and the id."""


# ----------------------------------------------------------------------------------------------
# Keys, witnesses, policy
# ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Witnesses:
    """Processes with keys and directories of their own, by name, and the policy that asks for two
    of them."""

    processes: dict[str, ServerProcess]
    policy: Path


def start_witnesses(folder: Path, data: Path, running: ExitStack) -> Witnesses:
    """Make the ledger's signing key and three witnesses, start these, and write the policy."""
    data_directory.create(data)
    log = signing.create_key(data / signing.DEFAULT_NAME, name=ORIGIN, passphrase=None)
    processes, lines = {}, [f"log {log}"]
    for name in WITNESSES:
        key = create_key(folder / name, f"witness.example/{name}")
        process = ServerProcess(
            folder / name, words=("witness", "serve"), arguments=("--log", str(log))
        )
        processes[name] = running.enter_context(process)
        _, _, rest = policy_line(key, process.url).partition(" ")
        lines.append(f"witness {name} {rest.partition(' ')[2]}")
    lines += [f"group two-of-three 2 {' '.join(WITNESSES)}", "quorum two-of-three", ""]
    policy = folder / "policy.txt"
    policy.write_text("\n".join(lines))
    return Witnesses(processes, policy)


# ----------------------------------------------------------------------------------------------
# The auditor
# ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    """What ``verify.py`` said, and how it ended."""

    status: int
    lines: list[str]

    @property
    def checks(self) -> list[str]:
        """A line for each check, and the verdict; what was proven comes after it."""
        end = next((at for at, line in enumerate(self.lines) if line.startswith("ACCEPTED")), None)
        return self.lines if end is None else self.lines[: end + 1]

    @property
    def item(self) -> list[str]:
        """What was found of the last item, and the verdict."""
        items = [line for line in self.checks if " item " in line.partition(":")[0]]
        return items[-1:] + self.checks[-1:]

    @property
    def refusal(self) -> list[str]:
        """The line that refuses, or that nothing does."""
        return [line for line in self.lines if "REFUSED" in line][:1] or ["not refused"]


class Auditor:
    """A folder with ``verify.py`` and a policy and nothing else, in which the verifier runs with
    ``python -I`` and an empty environment."""

    def __init__(self, folder: Path, policy: Path) -> None:
        folder.mkdir()
        self.folder = folder
        source = Path(ledger.proof.__file__).with_name("verify.py")
        shutil.copyfile(source, folder / "verify.py")
        shutil.copyfile(policy, folder / "policy.txt")

    def verify(self, name: str, *arguments: str) -> Verdict:
        """Judge a file or folder that lies in the auditor's folder."""
        command = [sys.executable, "-I", "verify.py", name, "--policy", "policy.txt", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env={}, capture_output=True, text=True, check=False
        )
        return Verdict(done.returncode, (done.stdout + done.stderr).splitlines())


def show(day: Day, command: str, lines: list[str]) -> None:
    """Print a command and what it said, each line cut to the width of a page."""
    if not day.quiet:
        console.print(f"\n  [dim]$ {escape(command)}[/]", soft_wrap=True)
        for line in lines:
            short = line if len(line) <= LINE_SIZE else line[: LINE_SIZE - 1] + "…"
            console.print(f"    {escape(short)}", soft_wrap=True)


async def export_the_day(day: Day, client: Client, auditor: Auditor, customer: int) -> None:
    """Hand the auditor a customer's day and the trial balance; show what the verifier says."""
    await _root_covered(client)
    package = auditor.folder / "package.zip"
    with package.open("wb") as out:
        await client.proofs.export([customer], out.write, start=TODAY, end=TODAY)
    balance = await client.proofs.trial_balance()
    (auditor.folder / "trial-balance.json").write_bytes(balance)
    if not day.quiet:
        sizes = (bytes_text(package.stat().st_size), bytes_text(len(balance)))
        console.print(
            f"  package.zip, {sizes[0]}: the statement of account {customer}, complete from the end"
            f" of one business day to the next\n  trial-balance.json, {sizes[1]}: the sums of all"
            " accounts, in a folder with verify.py, policy.txt and nothing else",
            soft_wrap=True,
        )
    period = ("--account", str(customer), "--from", f"{TODAY}", "--to", f"{TODAY}")
    verdict = auditor.verify("package.zip", *period)
    show(
        day, f"python verify.py package.zip --policy policy.txt {' '.join(period)}", verdict.checks
    )
    day.check("the statement is proven, offline, by keys alone", verdict.status == 0)
    verdict = auditor.verify("trial-balance.json")
    show(day, "python verify.py trial-balance.json --policy policy.txt", verdict.item)
    day.check("so is the trial balance", verdict.status == 0)


async def _root_covered(client: Client) -> None:
    """Wait until the state at the end of the day is under a published checkpoint."""
    for _ in range(int(COVERED_WITHIN_S / 0.1)):
        roots = await client.proofs.state_roots()
        ends = [root for root in roots if root.business_date == TOMORROW]
        if ends and ends[0].interval is not None:
            note = await published(client.url)
            if note is not None and size_of(note) > ends[0].interval:
                return
        await asyncio.sleep(0.1)
    raise Unavailable("checkpoint_missing", "the end of the day got no cosigned checkpoint in time")


# ----------------------------------------------------------------------------------------------
# Forgeries
# ----------------------------------------------------------------------------------------------


def refuse_forgeries(day: Day, auditor: Auditor, customer: int) -> None:
    """Alter a digit of the statement, then an amount in the proof itself, make all digests of the
    package right again, and show what the verifier says."""
    statement = f"statement-{customer}.csv"
    attempts: list[tuple[str, str, Callable[[bytes], bytes]]] = [
        ("one digit of the statement", statement, _other_digit),
        ("the amount of an entry in its proof", "bundle.json", _other_amount),
    ]
    for place, (what, name, forge) in enumerate(attempts):
        copy = auditor.folder / f"forged-{place}"
        with zipfile.ZipFile(auditor.folder / "package.zip") as package:
            package.extractall(copy)
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(forge(before))
        _make_manifest_right(copy, name)
        verdict = auditor.verify(copy.name)
        show(day, f"python verify.py {copy.name} --policy policy.txt", verdict.refusal)
        day.check(
            f"{what} altered, every digest of the package made right again: refused",
            verdict.status == 1 and (copy / name).read_bytes() != before,
        )


def _other_digit(data: bytes) -> bytes:
    """Another last digit of the last balance."""
    lines = list(csv.reader(io.StringIO(data.decode())))
    last = lines[-1][-1]
    lines[-1][-1] = last[:-1] + str((int(last[-1]) + 1) % 10)
    return "".join(",".join(line) + "\n" for line in lines).encode()


def _other_amount(data: bytes) -> bytes:
    """One minor unit more in the first transfer of the statement."""
    bundle = json.loads(data)
    statement = next(item for item in bundle["items"] if item["type"] == "statement")
    entry = bytearray(base64.b64decode(statement["entries"][0]))
    amount = int.from_bytes(entry[ENTRY_AMOUNT : ENTRY_AMOUNT + 16], "little")
    entry[ENTRY_AMOUNT : ENTRY_AMOUNT + 16] = (amount + 1).to_bytes(16, "little")
    statement["entries"][0] = base64.b64encode(entry).decode()
    del bundle["sha256"]
    bundle["sha256"] = hashlib.sha256(_canonical(bundle)).hexdigest()
    return _canonical(bundle)


def _make_manifest_right(folder: Path, name: str) -> None:
    path, data = folder / "manifest.json", (folder / name).read_bytes()
    manifest = json.loads(path.read_bytes())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    path.write_bytes(_canonical(manifest))


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


# ----------------------------------------------------------------------------------------------
# The log across a kill
# ----------------------------------------------------------------------------------------------


def size_of(note: str) -> int:
    """Return the number of records under a checkpoint."""
    return parse_checkpoint(parse_note(note).text).size


async def published(url: str) -> str | None:
    """Return the newest published checkpoint, as anybody can fetch it."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/checkpoint") as answer:
        return await answer.text() if answer.status == 200 else None


async def watch_checkpoints(url: str, seen: list[str]) -> None:
    """Fetch the checkpoint again and again until the server is gone; ``seen`` gets the new ones."""
    while True:
        try:
            note = await published(url)
        except aiohttp.ClientError:
            return
        if note is not None and (not seen or size_of(note) > size_of(seen[-1])):
            seen.append(note)
        await asyncio.sleep(0.05)


async def check_the_log_grew(day: Day, client: Client, auditor: Auditor, seen: str) -> None:
    """Compare the first checkpoint after the restart with the last one that was seen before."""
    policy = parse_policy((auditor.folder / "policy.txt").read_bytes())
    for _ in range(int(COVERED_WITHIN_S / 0.1)):
        note = await published(client.url)
        if note is not None and size_of(note) > size_of(seen):
            break
        await asyncio.sleep(0.1)
    else:
        raise Unavailable("checkpoint_missing", "no checkpoint was published after the restart")
    cosigned = policy.approve(parse_note(note)).checkpoint.size
    bundle = await client.proofs.consistency_with(seen)
    (auditor.folder / "consistency.json").write_bytes(bundle)
    verdict = auditor.verify("consistency.json")
    show(day, "python verify.py consistency.json --policy policy.txt", verdict.item)
    day.check(
        f"the log did not fork: of its {cosigned:,} records, cosigned by two witnesses, the first"
        f" {size_of(seen):,} are those of the last checkpoint seen before the kill",
        verdict.status == 0,
    )
    day.figures |= {"log_size_before_kill": size_of(seen), "log_size_after": cosigned}
