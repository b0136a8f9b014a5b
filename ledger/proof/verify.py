#!/usr/bin/env python3
"""Checks, offline, what a Sanyuan ledger proves: transfers, balances, complete statements, totals.

    python verify.py BUNDLE --policy FILE

BUNDLE is the zip an auditor was given, a folder with its files, or a lone bundle.json. The policy
(C2SP tlog-policy) names the keys that are trusted and must come from elsewhere than the bundle;
so must this file. Nothing here uses the network, the clock or other files, and the standard
library is enough. If the packages ``blake3`` and ``cryptography`` are installed they do the same
arithmetic faster; ``--pure``, or SANYUAN_VERIFY_PURE=1 in the environment, does without.

Exit status: 0 everything holds, 1 something is refused, 2 it could not be judged. The formats are
those of docs/proofs.md, and so are the names.

To be read from top to bottom:

    1  the examination    the checks, in the order in which they are made
    2  the items          entry, erased entry, account, statement, trial balance, tile, full
                          state, consistency, sample
    3  the parts          checkpoint, policy, interval record, block header, group, account leaf
    4  the files          the exact zip, the folder, canonical JSON, CSV
    5  the trees          inclusion, consistency, roots
    6  the cryptography   Ed25519, BLAKE3
    7  the words          English and Chinese
    8  the command line

One rule holds throughout: a check either returns or raises ``Refusal``, and what no check has
confirmed is never used as if it were true.
"""

# Kept to what Python 3.9 runs, hence zip() without strict; the rounds of BLAKE3 are a table.
# ruff: noqa: B905, E702, RUF007

from __future__ import annotations

import argparse
import binascii
import calendar
import hashlib
import io
import json
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

BUNDLE_SIZE_MAX = 256 << 20
BUNDLE_DEPTH_MAX = 8
BUNDLE_PARTS_MAX = 1 << 22
"""Commas and opening brackets: a value of two bytes takes a reader a hundred bytes of memory."""
RECORD_SIZE_MAX = 1024
NOTE_SIZE_MAX = 256 << 10
NOTE_SIGNATURES_MAX = 100
POLICY_SIZE_MAX = 256 << 10
METADATA_SIZE_MAX = 4096
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
U128_MAX = 2**128 - 1
NUMBER_MAX = 2**53 - 1
"""The greatest whole number in a bundle that is not written as text."""
SIZE_MAX = 2**63 - 1
"""The greatest size of a log, and the greatest time of a cosignature."""

ACCOUNT, TRANSFER, EXPIRY, BURNED_ID, SETTINGS, DEFINITION, ADMINISTRATION = 1, 2, 3, 4, 5, 6, 8
KINDS = {
    ACCOUNT: "account",
    TRANSFER: "transfer",
    EXPIRY: "expiry",
    BURNED_ID: "burned_id",
    SETTINGS: "account_settings",
    DEFINITION: "definition",
    ADMINISTRATION: "administration",
}
OWN_KINDS = (ACCOUNT, SETTINGS)
"""Kinds of entries with one side, their own."""
DEBIT, CREDIT, OWN = 1, 2, 3
SIDES = {DEBIT: "debit", CREDIT: "credit", OWN: "own"}
TRANSFER_PENDING, TRANSFER_POST, TRANSFER_VOID, TRANSFER_IMPORTED = 1 << 1, 1 << 2, 1 << 3, 1 << 8
ACCOUNT_IMPORTED, ACCOUNT_CLOSED = 1 << 4, 1 << 5
BLOCK_SEAL = 1

ZEROS = bytes(32)
TILE = 256
"""Accounts in a tile."""
SUMS_MAX = 2**160 - 1
NO_SUMS = (0, 0, 0)


class Text(NamedTuple):
    """One sentence in English and in Chinese."""

    en: str
    zh: str


class Refusal(Exception):
    """Something in the bundle is not as it must be."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Unjudged(Exception):
    """There is nothing to judge: no such file, no policy, bad arguments."""


class Expectations(NamedTuple):
    """What the auditor asked for; a valid bundle of anything else is refused."""

    accounts: Sequence[int] = ()
    date_from: int = 0
    date_to: int = 0
    origin: str | None = None
    newest: bool = False


class Check(NamedTuple):
    name: str
    ok: bool
    detail: Text


class Report:
    """The checks in the order in which they were made, and what follows from them."""

    def __init__(self) -> None:
        self.verdict = "error"
        self.code: str | None = None
        self.reason: str | None = None
        self.checks: list[Check] = []
        self.proven: list[Text] = []
        self.not_shown: list[Text] = []


# ==================================================================================================
# 1  The examination
# ==================================================================================================


def examine(
    package: Package,
    policy: bytes | None,
    expected: Expectations = Expectations(),  # noqa: B008 (a constant)
    *,
    trust_bundled_policy: bool = False,
) -> Report:
    """Make every check on a package and return the report. Raises Unjudged and OSError only."""
    report = Report()
    try:
        Examination(package, policy, expected, trust_bundled_policy, report).run()
        report.verdict = "accepted"
    except Refusal as refusal:
        report.verdict, report.code, report.reason = "refused", refusal.code, refusal.reason
    except (RecursionError, MemoryError):
        report.verdict, report.code = "refused", "too_large"
        report.reason = "the bundle asks for more memory than there is"
    if report.verdict == "refused":
        report.proven.clear()
        report.not_shown.clear()
    return report


class Examination:
    """The state of one examination: what was read, and what was confirmed so far."""

    def __init__(
        self,
        package: Package,
        policy: bytes | None,
        expected: Expectations,
        trust_bundled_policy: bool,
        report: Report,
    ) -> None:
        self.package = package
        self.policy_text = policy
        self.expected = expected
        self.trust_bundled_policy = trust_bundled_policy
        self.report = report
        self.digests: dict[str, bytes] = {}
        self.manifest_origin: str | None = None
        # Confirmed by the checks, in this order:
        self.policy: Policy
        self.bundle: dict[str, Any]
        self.origin: str
        self.checkpoint: Checkpoint
        self.witnesses: dict[KeyName, Cosignature] = {}
        self.intervals: list[Interval] = []
        self.last_interval: Interval | None = None
        self.blocks: list[Block] = []
        self.states: list[State] = []
        self.items: list[tuple[int, str, Any]] = []
        self.entries: dict[int, Entry] = {}
        self.accounts: dict[int, AccountItem] = {}
        self.statements: dict[int, Statement] = {}
        self.trial_balance: State | None = None
        self.full_state: State | None = None
        self.sampled: set[int] = set()
        self.conflicts: list[str] = []
        self._facts: dict[tuple[Any, ...], object] = {}

    # -- The checks, in order ------------------------------------------------------------------

    def run(self) -> None:
        self.step("files", self.check_files)
        self.step("policy", self.check_policy)
        self.step("bundle", self.check_bundle)
        self.step("checkpoint", self.check_checkpoint)
        self.step("witnesses", self.check_quorum)
        self.step("intervals", self.check_intervals)
        self.step("blocks", self.check_blocks)
        self.step("states", self.check_states)
        self.step("items", self.check_types)
        for place, kind, item in self.items:
            self.step(f"item {place}: {kind}", ITEMS[kind], self, place, item)
        self.step("parts", self.check_parts)
        self.step("contradictions", self.check_contradictions)
        self.step("copies", self.check_copies)
        self.step("expectations", self.check_expectations)
        self.say_what_is_not_shown()

    def step(self, name: str, check: Callable[..., Text], *arguments: Any) -> None:
        try:
            self.report.checks.append(Check(name, True, check(*arguments)))
        except Refusal as refusal:
            detail = Text(refusal.reason, f"{REFUSALS_ZH[refusal.code]}（{refusal.reason}）")
            self.report.checks.append(Check(name, False, detail))
            raise

    def proved(self, en: str, zh: str) -> Text:
        self.report.proven.append(Text(en, zh))
        return Text(en, zh)

    # -- Files ---------------------------------------------------------------------------------

    def check_files(self) -> Text:
        """Every file of a zip or folder has the size and SHA-256 that the manifest says."""
        package = self.package
        if package.kind == "bundle":
            return Text("a lone bundle.json", "单独的 bundle.json")
        if "bundle.json" not in package.names:
            refuse("bad_manifest", "there is no bundle.json")
        if "README.txt" not in package.names:
            refuse("bad_manifest", "there is no README.txt")
        for name in package.names:
            self.digests[name] = package.digest(name)
        files, self.manifest_origin = read_manifest(package)
        for name in package.names:
            if name == "manifest.json":
                continue
            if name not in files:
                refuse("bad_manifest", f"{shown(name)} is not in the manifest")
            sha256, size = files.pop(name)
            if package.size(name) != size or self.digests[name] != sha256:
                refuse("bad_manifest", f"{shown(name)} is not the file that the manifest names")
        for name in files:
            refuse("bad_manifest", f"{shown(name)} is in the manifest and is not there")
        count = len(package.names)
        return Text(
            f"{package.kind} of {count} files, each as its manifest says",
            f"{'zip 包' if package.kind == 'zip' else '文件夹'}，{count} 个文件均与清单一致",
        )

    def check_policy(self) -> Text:
        """The keys that are trusted are read from the auditor's own policy."""
        text = self.policy_text
        if self.trust_bundled_policy:
            if "policy.txt" not in self.package.names:
                raise Unjudged("--trust-bundled-policy, and there is no policy.txt in the bundle")
            text = self.package.read("policy.txt", POLICY_SIZE_MAX)
        if text is None:
            if "policy.txt" in self.package.names:
                refuse(
                    "policy_not_trusted",
                    "the only policy is the bundle's own copy: give yours with --policy",
                )
            raise Unjudged("no policy: name the keys you trust with --policy FILE")
        self.policy = policy = read_policy(text)
        quorum = policy.quorum.decode("utf-8", "replace")
        return Text(
            f"{len(policy.logs)} log keys, {len(policy.witnesses)} witnesses, "
            f"quorum {shown(quorum)}",
            f"日志密钥 {len(policy.logs)} 个，见证人 {len(policy.witnesses)} 个，"
            f"法定见证组 {shown(quorum)}",
        )

    # -- The bundle as a whole -----------------------------------------------------------------

    def check_bundle(self) -> Text:
        """bundle.json is canonical, of known form, and has the digest that it states."""
        data = self.package.read("bundle.json", BUNDLE_SIZE_MAX)
        bundle = parse_canonical(data, "bundle.json")
        fields(
            bundle,
            "the bundle",
            *("format", "sha256", "origin", "instance", "checkpoint"),
            *("intervals", "blocks", "states", "items"),
        )
        if bundle["format"] != "sanyuan bundle v1":
            refuse("malformed", "the format is not 'sanyuan bundle v1'")
        for name in ("sha256", "origin", "instance", "checkpoint"):
            string(bundle[name], name)
        for name in ("intervals", "blocks", "states", "items"):
            array(bundle[name], name)
        if not re.fullmatch("[0-9a-f]{64}", bundle["sha256"]):
            refuse("malformed", "sha256 is not 64 hex digits")
        if not re.fullmatch("[0-9a-f]{32}", bundle["instance"]):
            refuse("malformed", "instance is not 32 hex digits")
        rest = {name: value for name, value in bundle.items() if name != "sha256"}
        if hashlib.sha256(canonical(rest)).hexdigest() != bundle["sha256"]:
            refuse("bad_digest", "the bundle's SHA-256 is not the one that it states")
        if not bundle["items"]:
            refuse("malformed", "there is no item: nothing to prove")
        self.bundle = bundle
        self.origin = origin = bundle["origin"]
        if self.manifest_origin not in (None, origin):
            refuse("bad_manifest", "the manifest names another origin than the bundle")
        if not any(key.name == origin for key in self.policy.logs):
            refuse("wrong_log", f"the policy has no log key of {shown(origin)}")
        return Text(
            f"{len(bundle['items'])} items of log {shown(origin)}, digest {bundle['sha256'][:16]}…",
            f"日志 {shown(origin)}，{len(bundle['items'])} 项，摘要 {bundle['sha256'][:16]}…",
        )

    # -- Checkpoint and witnesses --------------------------------------------------------------

    def check_checkpoint(self) -> Text:
        """A key of the log, in its range of sizes, signed the checkpoint."""
        self.checkpoint = checkpoint = read_checkpoint(self.bundle["checkpoint"])
        if checkpoint.origin != self.origin:
            refuse("wrong_log", f"the checkpoint is of {shown(checkpoint.origin)}")
        signers, self.witnesses = check_signatures(checkpoint, self.policy)
        names = ", ".join(key.label for key in signers)
        self.proved(
            f"Log {shown(self.origin)}, instance {self.bundle['instance']}: the checkpoint of "
            f"{checkpoint.size} intervals is signed by {names}.",
            f"日志 {shown(self.origin)}，实例 {self.bundle['instance']}："
            f"含 {checkpoint.size} 个区间的检查点由 {names} 签名。",
        )
        for key in signers:
            self.proved(*key.fingerprint("log key", "日志公钥"))
        return Text(
            f"size {checkpoint.size}, signed by {names}",
            f"规模 {checkpoint.size}，由 {names} 签名",
        )

    def check_quorum(self) -> Text:
        """The witnesses that the policy asks for have cosigned the checkpoint."""
        policy = self.policy
        counted, known = len(self.witnesses), len(policy.witnesses)
        if not quorum_is_met(policy, self.witnesses):
            refuse(
                "quorum_not_met",
                f"{counted} of {known} witnesses cosigned, and the quorum of the policy is not met",
            )
        for cosignature in self.witnesses.values():
            key, time = cosignature.key, time_of_seconds(cosignature.time)
            self.proved(
                f"Witness {key.label} cosigned at {time}.",
                f"见证人 {key.label} 于 {time} 共同签名。",
            )
            self.proved(*key.fingerprint("witness key", "见证人公钥"))
        if policy.quorum == b"none":
            return Text(
                f"the policy asks for no witness; {counted} cosigned",
                f"策略不要求见证人；{counted} 个共同签名",
            )
        return Text(
            f"{counted} of {known} witnesses cosigned; the quorum is met",
            f"{known} 个见证人中 {counted} 个共同签名，达到法定要求",
        )

    # -- Intervals, blocks, states -------------------------------------------------------------

    def check_intervals(self) -> Text:
        """Each interval record is in the log under the checkpoint."""
        seen: set[int] = set()
        for place, value in enumerate(self.bundle["intervals"]):
            where = f"interval {place}"
            index, text, path = fields(value, where, "index", "record", "path")
            number(index, where)
            siblings = hashes(path, where)
            if index in seen:
                refuse("unused_part", f"{where}: interval {index} is given twice")
            seen.add(index)
            record = read_record(string(text, where), where)
            if record.origin != self.origin or record.instance != self.bundle["instance"]:
                refuse("wrong_log", f"{where}: the record is of another log or instance")
            leaf = sha256_leaf(text.encode())
            root = root_of_path(leaf, index, self.checkpoint.size, siblings, sha256_node)
            if root != self.checkpoint.root:
                refuse("bad_inclusion", f"{where}: the record is not at {index} of the checkpoint")
            if (index == 0) != (record.first_block == 0):
                refuse("bad_record", f"{where}: block 0 and interval 0 must begin together")
            interval = Interval(place, index, record, siblings)
            self.intervals.append(interval)
            if index == self.checkpoint.size - 1:
                self.last_interval = interval
            self.fact(("block hash", record.last_block), record.last_hash)
            self.fact(("time and date of block", record.last_block), (record.time, record.date))
            self.fact(("first entry of block", record.first_block), record.first_entry)
            end = record.first_entry + record.entry_count
            self.fact(("first entry of block", record.last_block + 1), end)
            self.fact(("date before block", record.last_block + 1), record.date)
            state = record.state
            if state is not None:
                self.fact(("state root", state.block), state.root)
                self.fact(("time and date of block", state.block), (state.time, state.date))
                self.fact(("date before block", state.block), state.date_before)
                self.fact(("date before block", state.block + 1), state.date)
        self.compare_neighbours()
        count = len(self.intervals)
        return Text(f"{count} interval records are in the log", f"{count} 条区间记录在日志中")

    def compare_neighbours(self) -> None:
        """Note as contradictions what a journal that only grows cannot say of its intervals."""
        ordered = sorted(self.intervals, key=lambda interval: interval.number)
        for older, newer in zip(ordered, ordered[1:]):
            a, b = older.record, newer.record
            adjacent = newer.number == older.number + 1
            if b.first_block <= a.last_block or (adjacent and b.first_block != a.last_block + 1):
                self.conflict(f"intervals {older.number} and {newer.number}: blocks do not follow")
            end = a.first_entry + a.entry_count
            if b.first_entry < end or (adjacent and b.first_entry != end):
                self.conflict(f"intervals {older.number} and {newer.number}: entries do not follow")
            if b.time < a.time or b.date < a.date:
                self.conflict(f"intervals {older.number} and {newer.number}: time runs backwards")
            if a.state and (b.state is None or b.state.block < a.state.block):
                self.conflict(f"intervals {older.number} and {newer.number}: states run backwards")

    def check_blocks(self) -> Text:
        """Each block header is in the tree of its interval, and agrees with the record."""
        seen: set[int] = set()
        for place, value in enumerate(self.bundle["blocks"]):
            where = f"block {place}"
            at, header, path = fields(value, where, "interval", "header", "path")
            interval = place_in(self.intervals, at, where)
            block = Block(place, interval, base64_bytes(header, where, 256))
            siblings = hashes(path, where)
            check_block(block, siblings, self.bundle["instance"], where)
            if block.number in seen:
                refuse("unused_part", f"{where}: block {block.number} is given twice")
            seen.add(block.number)
            self.blocks.append(block)
            self.fact(("block hash", block.number), block.hash)
            self.fact(("time and date of block", block.number), (block.time, block.date))
            self.fact(("first entry of block", block.number), block.first_entry)
            end = block.first_entry + block.entry_count
            self.fact(("first entry of block", block.number + 1), end)
            self.fact(("date before block", block.number + 1), block.date)
            if block.number:
                self.fact(("block hash", block.number - 1), block.previous_hash)
            if block.state_root != ZEROS:
                self.fact(("state root", block.state_block), block.state_root)
        self.compare_blocks()
        count = len(self.blocks)
        return Text(f"{count} block headers are in their intervals", f"{count} 个区块头在其区间中")

    def compare_blocks(self) -> None:
        """Note as contradictions what headers of one journal cannot say: else an entry's number
        could mean an entry in either of two blocks.
        """
        ordered = sorted(self.blocks, key=lambda block: block.number)
        for a, b in zip(ordered, ordered[1:]):
            if b.first_entry < a.first_entry + a.entry_count:
                self.conflict(f"blocks {a.number} and {b.number}: entries do not follow")
            if b.time < a.time or b.date < a.date:
                self.conflict(f"blocks {a.number} and {b.number}: time runs backwards")

    def check_states(self) -> Text:
        """The groups of each state lead to the state root that its interval's record names."""
        seen: set[tuple[int, int]] = set()
        for place, value in enumerate(self.bundle["states"]):
            where = f"state {place}"
            state = read_state(place, value, self.intervals, where)
            indexes = [-1] if state.complete else list(state.groups)
            keys = [(state.block, index) for index in indexes]
            if seen.intersection(keys):
                refuse("unused_part", f"{where}: given twice")
            seen.update(keys)
            self.states.append(state)
        count = len(self.states)
        return Text(f"{count} state roots are as recorded", f"{count} 个状态根与记录一致")

    # -- The bundle across its items -----------------------------------------------------------

    def check_types(self) -> Text:
        """Every item is of a known type."""
        self.items = items_in_order_of_proof(self.bundle["items"])
        kinds = [kind for _, kind, _ in self.items]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ITEMS if kind in kinds)
        counts_zh = "，".join(
            f"{CHECKS_ZH[kind]} {kinds.count(kind)}" for kind in ITEMS if kind in kinds
        )
        return Text(counts, counts_zh)

    def check_parts(self) -> Text:
        """Every interval, block and state is used, and they stand in order of first use."""
        used: dict[str, dict[int, None]] = {"intervals": {}, "blocks": {}, "states": {}}

        def use(what: str, place: int) -> None:
            used[what].setdefault(place)

        for place, item in enumerate(self.bundle["items"]):
            if "block" in item:
                use("blocks", item["block"])
                use("intervals", self.blocks[item["block"]].interval.place)
            if "state" in item:
                use("states", item["state"])
                use("intervals", self.states[item["state"]].interval.place)
            claims_newest = place in self.accounts and self.accounts[place].newest
            if (claims_newest or item["type"] == "sample") and self.last_interval is not None:
                use("intervals", self.last_interval.place)
        for place, entry in self.entries.items():
            if entry.erased and place not in self.sampled:
                refuse("unused_part", f"item {place}: an erased entry that no sample has drawn")
        for what, found in used.items():
            places = list(found)
            if sorted(places) != list(range(len(self.bundle[what]))):
                refuse("unused_part", f"some of the bundle's {what} are used by no item")
            if places != sorted(places):
                refuse("unused_part", f"the bundle's {what} are not in order of first use")
        return Text("every part is used", "每个部分均被使用")

    def check_contradictions(self) -> Text:
        """Nothing that was confirmed contradicts something else that was confirmed."""
        if self.conflicts:
            refuse("contradiction", self.conflicts[0])
        count = len(self._facts)
        return Text(f"none among {count} facts", f"{count} 条事实之间没有矛盾")

    def fact(self, key: tuple[Any, ...], value: object) -> None:
        """Note what was confirmed; another value for the same key is a contradiction."""
        if self._facts.setdefault(key, value) != value:
            self.conflict("two values for " + " ".join(str(part) for part in key))

    def leaves_of(self, block: int) -> list[tuple[int, object]]:
        """Return (account, leaf hash) of all that items showed under the state of this block."""
        found = self._facts.items()
        return [(key[3], leaf) for key, leaf in found if key[:3] == ("state", block, "account")]

    def conflict(self, sentence: str) -> None:
        self.conflicts.append(sentence)

    def check_copies(self) -> Text:
        """What people read beside the bundle says the same as the proofs, byte for byte."""
        if self.package.kind == "bundle":
            return Text("none: a lone bundle.json", "无：单独的 bundle.json")
        expected = {"checkpoint": ("bad_manifest", self.bundle["checkpoint"].encode())}
        for interval in self.intervals:
            text = tlog_proof(interval, self.bundle["checkpoint"])
            expected[f"interval-{interval.number}.tlog-proof"] = ("bad_manifest", text)
        tables = {f"statement-{s.account}.csv": s.csv for s in self.statements.values()}
        if self.trial_balance is not None:
            tables["trial-balance.csv"] = self.trial_balance.csv
        for name, table in tables.items():
            if name not in self.package.names:
                refuse("bad_csv", f"there is no {name}")
            expected[name] = ("bad_csv", table())
        others = {"manifest.json", "README.txt", "bundle.json", "policy.txt"}
        others |= {"verify.py", "verify.html"} | ({"state.bin"} if self.full_state else set())
        compared = 0
        for name in self.package.names:
            if name in expected:
                code, text = expected[name]
                if hashlib.sha256(text).digest() != self.digests[name]:
                    line = self.package.first_difference(name, text)
                    refuse(code, f"{shown(name)}, line {line}: not what follows from the proofs")
                compared += 1
            elif name not in others:
                refuse("unused_part", f"{shown(name)} belongs to no part of the bundle")
        return Text(
            f"{compared} files say what the proofs say", f"{compared} 个文件与证明逐字节一致"
        )

    def check_expectations(self) -> Text:
        """The bundle is of the log, the accounts and the days that were asked for."""
        expected = self.expected
        if expected.origin not in (None, self.origin):
            refuse("wrong_log", f"of log {shown(self.origin)}, not of {shown(expected.origin)}")
        shown_accounts = {item.leaf.id for item in self.accounts.values()}
        if expected.accounts and shown_accounts != set(expected.accounts):
            wanted = ", ".join(str(account) for account in sorted(set(expected.accounts)))
            got = ", ".join(str(account) for account in sorted(shown_accounts)[:10]) or "none"
            refuse("wrong_account", f"the accounts are {got}; asked for: {wanted}")
        if expected.date_from or expected.date_to:
            if not self.statements:
                refuse("wrong_period", "there is no statement, so no period is covered")
            without = shown_accounts - {one.account for one in self.statements.values()}
            if without:
                refuse("wrong_period", f"account {min(without)} has no statement of the period")
            for statement in self.statements.values():
                check_period(statement, expected)
        if expected.newest:
            olds = {s.opening.place for s in self.statements.values() if s.opening}
            news = {s.closing.place for s in self.statements.values()}
            asked = [a for place, a in self.accounts.items() if place in news or place not in olds]
            if not asked or not all(item.newest for item in asked):
                refuse("not_newest", "the bundle does not claim the newest state")
        return Text("the bundle is what was asked for", "证明包与要求相符")

    def say_what_is_not_shown(self) -> None:
        kinds = {item["type"] for item in self.bundle["items"]}
        say = self.report.not_shown.append
        if self.trust_bundled_policy:
            say(NOT_SHOWN["bundled policy"])
        if self.policy.quorum == b"none" or not self.witnesses:
            say(NOT_SHOWN["no witness"])
        say(NOT_SHOWN["input"])
        if "statement" in kinds:
            say(NOT_SHOWN["statement"])
            say(NOT_SHOWN["dates"])
        if "account" in kinds and not all(item.newest for item in self.accounts.values()):
            say(NOT_SHOWN["newest"])
        if kinds & {"account", "trial_balance", "tile"} and "full_state" not in kinds:
            say(NOT_SHOWN["sums"])
        if kinds & {"entry", "sample"}:
            say(NOT_SHOWN["entry"])
        if "sample" in kinds:
            say(NOT_SHOWN["sample"])
        if "full_state" in kinds:
            say(NOT_SHOWN["full state"])
        if "consistency" in kinds:
            say(NOT_SHOWN["consistency"])


def refuse(code: str, reason: str) -> NoReturn:
    raise Refusal(code, reason)


def check_period(statement: Statement, expected: Expectations) -> None:
    """The statement begins at or before the first day asked for, and ends after the last one."""
    opening, closing = statement.opening, statement.closing
    first, last = expected.date_from, expected.date_to
    if first and opening is not None:
        date = opening.state.date
        if date > first or (date == first and not opening.state.ends_day):
            within = "" if opening.state.ends_day else "within "
            refuse("wrong_period", f"the statement begins {within}{date_text(date)}")
    if last and closing.state.date <= last:
        refuse("wrong_period", f"the statement ends on {date_text(closing.state.date)}")


def items_in_order_of_proof(items: list[Any]) -> list[tuple[int, str, Any]]:
    """Return (place, type, item), those last that build on other items."""
    found = []
    for place, item in enumerate(items):
        kind = item.get("type") if isinstance(item, dict) else None
        if not isinstance(kind, str) or kind not in ITEMS:
            refuse("malformed", f"item {place}: not of a known type")
        found.append((place, kind, item))
    return sorted(found, key=lambda one: one[1] in ("statement", "sample", "full_state"))


# ==================================================================================================
# 2  The items
# ==================================================================================================

# -- Entries ---------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A confirmed entry: its global number, where it is, and whether only its leaf is left."""

    number: int
    block: Block
    erased: bool = False


def check_entry(exam: Examination, place: int, item: Any) -> Text:
    """The leaf follows from its parts, and leads to the root in the header of its block."""
    where = f"item {place}"
    at, index, kind, record, released_text, debit, credit, ext, path = fields(
        item,
        where,
        *("block", "index", "kind", "record", "released", "debit", "credit", "ext", "path"),
        also=("type",),
    )
    block = place_in(exam.blocks, at, where)
    number(index, where)
    number(kind, where)
    record = Record(base64_bytes(record, where, 96))
    released = decimal(released_text, where, U128_MAX)
    if kind not in KINDS:
        refuse("bad_entry", f"{where}: entries of kind {kind} are not known")
    sides = read_sides(kind, debit, credit, where)
    opened = [side for side in sides if side.account is not None]
    check_released(kind, record, released, where, "bad_entry")
    if released and not opened:
        refuse("bad_entry", f"{where}: a released amount that no opened side confirms")
    for side in opened:
        if kind == ACCOUNT and (side.number != 0 or side.account != record.id):
            refuse("bad_entry", f"{where}: an opening is entry 0 of the account it names")
        if kind != ACCOUNT and side.number == 0:
            refuse("bad_entry", f"{where}: entry 0 of an account is its opening")
    if len(opened) == 2 and opened[0].account == opened[1].account:
        refuse("bad_entry", f"{where}: one account on both sides")
    side_hashes = [side.digest(released, kind) for side in sides]
    side_hashes += [ZEROS] * (2 - len(sides))
    message = record.data + side_hashes[0] + side_hashes[1] + read_ext(ext, where)
    leaf = keyed(KINDS[kind], message)
    node = keyed_node("node")
    root = root_of_path(leaf, index, block.entry_count, hashes(path, where), node)
    if root is None or root != block.root:
        refuse("bad_entry", f"{where}: the entry is not at {index} of block {block.number}")
    entry = exam.entries[place] = Entry(block.first_entry + index, block)
    for side in opened:
        exam.fact(("entry", side.number, "of account", side.account), leaf)
        exam.fact(("place of entry", side.number, "of account", side.account), entry.number)
    return exam.proved(*describe_entry(entry, kind, record, sides))


def check_erased(exam: Examination, place: int, item: Any) -> Text:
    """A leaf of which nothing else is left leads to the root in the header of its block."""
    where = f"item {place}"
    at, index, leaf, path = fields(item, where, "block", "index", "leaf", "path", also=("type",))
    block = place_in(exam.blocks, at, where)
    number(index, where)
    root = root_of_path(
        base64_bytes(leaf, where, 32),
        index,
        block.entry_count,
        hashes(path, where),
        keyed_node("node"),
    )
    if root is None or root != block.root:
        refuse("bad_entry", f"{where}: the leaf is not at {index} of block {block.number}")
    entry = exam.entries[place] = Entry(block.first_entry + index, block, True)
    return exam.proved(
        f"Entry {entry.number} is in block {block.number} of the journal; what it says was erased.",
        f"第 {entry.number} 号分录在日记账第 {block.number} 区块中；其内容已抹除。",
    )


class Side(NamedTuple):
    """One side of an entry: opened, or its hash alone."""

    side: int
    hidden: bytes | None
    account: int | None
    number: int
    salt: bytes

    def digest(self, released: int, kind: int) -> bytes:
        if self.hidden is not None or self.account is None:
            return self.hidden or ZEROS
        return side_hash(self.account, self.number, released, self.side, kind, self.salt)


def side_hash(
    account: int, entry_number: int, released: int, side: int, kind: int, salt: bytes
) -> bytes:
    message = (
        account.to_bytes(16, "little")
        + entry_number.to_bytes(8, "little")
        + released.to_bytes(16, "little")
        + bytes((side, kind, 0, 0, 0, 0, 0, 0))
        + salt
    )
    return keyed("side", message)


def read_sides(kind: int, debit: Any, credit: Any, where: str) -> list[Side]:
    """Return the sides that an entry of the kind has, and refuse any others."""
    if kind in (TRANSFER, EXPIRY):
        given = [(DEBIT, debit), (CREDIT, credit)]
    elif kind in OWN_KINDS:
        given = [(OWN, debit)]
    else:
        given = []
    if any(value is None for _, value in given) or sum(
        value is not None for value in (debit, credit)
    ) != len(given):
        refuse("bad_entry", f"{where}: not the sides that an entry of this kind has")
    return [read_side(side, value, where) for side, value in given]


def read_side(side: int, value: Any, where: str) -> Side:
    if isinstance(value, str):
        return Side(side, base64_bytes(value, where, 32), None, 0, b"")
    account, entry_number, salt = fields(value, where, "account", "number", "salt")
    return Side(
        side,
        None,
        decimal(account, where, U128_MAX),
        decimal(entry_number, where, U64_MAX),
        base64_bytes(salt, where, 16),
    )


def read_ext(value: Any, where: str) -> bytes:
    """Return the ext of a leaf: zeros without metadata, its hash, or the hash of what is shown."""
    if value is None:
        return ZEROS
    if isinstance(value, str):
        return base64_bytes(value, where, 32)
    salt, metadata = fields(value, where, "salt", "metadata")
    data = string(metadata, where).encode()
    if len(data) > METADATA_SIZE_MAX:
        refuse("too_large", f"{where}: metadata of {len(data)} bytes")
    return keyed("ext", base64_bytes(salt, where, 32) + data)


def check_released(kind: int, record: Record, released: int, where: str, code: str) -> None:
    """Only a post, a void and an expiry release a pending amount, and a void all of it."""
    flags = record.flags if kind == TRANSFER else 0
    post, void = flags & TRANSFER_POST, flags & TRANSFER_VOID
    if bool(post) + bool(void) + bool(flags & TRANSFER_PENDING) > 1:
        refuse(code, f"{where}: flags that exclude each other")
    if kind == EXPIRY and record.amount:
        refuse(code, f"{where}: an expiry with an amount")
    if not (post or void or kind == EXPIRY) and released:
        refuse(code, f"{where}: a released amount, and nothing that releases it")


def describe_entry(entry: Entry, kind: int, record: Record, sides: list[Side]) -> Text:
    accounts = "".join(
        f", {SIDES[side.side]} account {side.account} (its entry {side.number})"
        for side in sides
        if side.account is not None
    )
    accounts_zh = "".join(
        f"，{SIDES_ZH[side.side]}账户 {side.account}（其第 {side.number} 条）"
        for side in sides
        if side.account is not None
    )
    block, time = entry.block, time_of(record.timestamp)
    what, what_zh = what_it_does(kind, record)
    return Text(
        f"Entry {entry.number}, kind {KINDS[kind]}{what}, id {record.id}, amount {record.amount}, "
        f"ledger {record.ledger}, {time}{accounts}, is in block {block.number} of the journal.",
        f"第 {entry.number} 号分录（{KINDS_ZH[kind]}{what_zh}，编号 {record.id}，"
        f"金额 {record.amount}，账簿 {record.ledger}，{time}{accounts_zh}）"
        f"在日记账第 {block.number} 区块中。",
    )


def what_it_does(kind: int, record: Record) -> Text:
    """Say what a transfer or expiry does beyond posting its amount."""
    pending = record.pending_id
    if kind == EXPIRY:
        return Text(f" of pending transfer {pending}", f"，待定转账 {pending}")
    if kind == TRANSFER and record.flags & TRANSFER_PENDING:
        return Text(" (pending)", "，待定")
    if kind == TRANSFER and record.flags & TRANSFER_POST:
        return Text(f" (posts pending transfer {pending})", f"，过账待定转账 {pending}")
    if kind == TRANSFER and record.flags & TRANSFER_VOID:
        return Text(f" (voids pending transfer {pending})", f"，撤销待定转账 {pending}")
    return Text("", "")


# -- Accounts --------------------------------------------------------------------------------------


class AccountItem(NamedTuple):
    """A confirmed account leaf under a state root."""

    place: int
    state: State
    group: Group
    leaf: Leaf
    newest: bool


def check_account(exam: Examination, place: int, item: Any) -> Text:
    """The account leaf leads through its tile and group to the state root."""
    where = f"item {place}"
    at, group_index, data, tile_path, sums_data, sum_path, newest = fields(
        item,
        where,
        *("state", "group", "leaf", "tile_path", "sums", "sum_path", "newest"),
        also=("type",),
    )
    state = place_in(exam.states, at, where)
    group = state.group(group_index, where)
    leaf = read_leaf(base64_bytes(data, where, 192))
    boolean(newest, where)
    sums = read_sums(base64_bytes(sums_data, where, 60))
    check_leaf(leaf, group, where, "bad_account")
    tile, index = divmod(leaf.ordinal, TILE)
    tile_hash = root_of_path(
        leaf.hash,
        index,
        group.leaves_in_tile(tile),
        hashes(tile_path, where),
        keyed_node("tile"),
    )
    if tile_hash is None:
        refuse("bad_account", f"{where}: the path in the tile has a wrong length")
    if any(own > total for own, total in zip(leaf.sums, sums)):
        refuse("bad_account", f"{where}: the account alone has more than its tile")
    if not group.has_tile(tile, (tile_hash, sums), read_sum_path(sum_path, where)):
        refuse("bad_account", f"{where}: the account does not lead to the head of its group")
    if newest:
        check_newest(exam, state, where)
    account = AccountItem(place, state, group, leaf, newest)
    exam.accounts[place] = account
    exam.fact(("state", state.block, "account", leaf.id), leaf.hash)
    return exam.proved(*describe_account(account))


def check_leaf(leaf: Leaf, group: Group, where: str, code: str) -> None:
    """The leaf is of the group it is in, within its count, and zero where it must be."""
    if (leaf.kind, leaf.ledger, leaf.code) != (group.kind, group.ledger, group.code):
        refuse(code, f"{where}: the account's kind, ledger and code are not its group's")
    if leaf.ordinal >= group.account_count:
        refuse(code, f"{where}: ordinal {leaf.ordinal} in a group of {group.account_count}")
    if leaf.zeros != bytes(5):
        refuse(code, f"{where}: bytes that must be zero are not")
    if leaf.entry_count == 0:
        refuse(code, f"{where}: an account without an opening")


def check_newest(exam: Examination, state: State, where: str) -> None:
    """The last record of the log names this state, so none under the checkpoint is later."""
    last = exam.last_interval
    if last is None:
        refuse("not_newest", f"{where}: the last interval of the log is not in the bundle")
    if last.record.state is None or last.record.state.block != state.block:
        refuse("not_newest", f"{where}: the log knows a later state than that of {state.block}")


def describe_account(account: AccountItem) -> Text:
    leaf, state = account.leaf, account.state
    newest = ", the newest under the checkpoint" if account.newest else ""
    newest_zh = "（检查点之下最新）" if account.newest else ""
    when, date = time_of(state.time), date_text(state.date)
    closed = ", closed" if leaf.flags & ACCOUNT_CLOSED else ""
    closed_zh = "，已关闭" if leaf.flags & ACCOUNT_CLOSED else ""
    return Text(
        f"Account {leaf.id} (ledger {leaf.ledger}, code {leaf.code}{closed}) had debits posted "
        f"{leaf.balances[1]}, credits posted {leaf.balances[3]}, debits pending "
        f"{leaf.balances[0]}, credits pending {leaf.balances[2]} at the state after block "
        f"{state.block} "
        f"({when}, business date {date}){newest}.",
        f"账户 {leaf.id}（账簿 {leaf.ledger}，代码 {leaf.code}{closed_zh}）"
        f"在第 {state.block} 区块后的状态（{when}，营业日 {date}）{newest_zh}："
        f"已记借方 {leaf.balances[1]}，"
        f"已记贷方 {leaf.balances[3]}，待定借方 {leaf.balances[0]}，待定贷方 {leaf.balances[2]}。",
    )


# -- Statements ------------------------------------------------------------------------------------


class Statement(NamedTuple):
    """A confirmed complete statement; the lines have the balances after each entry."""

    account: int
    opening: AccountItem | None
    closing: AccountItem
    lines: list[tuple[int, Line, tuple[int, int, int, int]]]

    def csv(self) -> bytes:
        return statement_csv(self)


class Line(NamedTuple):
    """One entry of a statement as the bundle has it, from the account's side."""

    kind: int
    side: int
    record: Record
    released: int
    salt: bytes
    other_hidden: bytes | None
    other_account: int | None
    other_number: int
    other_salt: bytes
    ext: bytes

    def leaf(self, account: int, entry_number: int) -> bytes:
        """Return the entry's leaf T, with the account's own side hashed from these numbers."""
        kind, side, released = self.kind, self.side, self.released
        own = side_hash(account, entry_number, released, side, kind, self.salt)
        if side == OWN:
            sides = own + ZEROS
        else:
            other = self.other_hidden
            if self.other_account is not None:
                other = side_hash(
                    *(self.other_account, self.other_number, released),
                    *(DEBIT + CREDIT - side, kind, self.other_salt),
                )
            sides = own + (other or ZEROS) if side == DEBIT else (other or ZEROS) + own
        return keyed(KINDS[kind], self.record.data + sides + self.ext)


RELEASED, OTHER_HIDDEN, OTHER_OPENED, EXT_HIDDEN, EXT_OPENED = 1, 2, 4, 8, 16


def check_statement(exam: Examination, place: int, item: Any) -> Text:
    """The entries are all there are: they chain from the opening's head to the closing's, and
    lead from its balances to the closing's.
    """
    where = f"item {place}"
    account_text, opening_place, closing_place, entries = fields(
        item, where, "account", "opening", "closing", "entries", also=("type",)
    )
    account = decimal(account_text, where, U128_MAX)
    closing = account_item(exam, closing_place, where)
    opening = None if opening_place is None else account_item(exam, opening_place, where)
    array(entries, where)
    check_ends(account, opening, closing, where)
    if any(statement.account == account for statement in exam.statements.values()):
        refuse("bad_statement", f"{where}: a second statement of account {account}")

    entry_number = opening.leaf.entry_count if opening else 0
    if closing.leaf.entry_count - entry_number != len(entries):
        wanted = closing.leaf.entry_count - entry_number
        refuse("bad_statement", f"{where}: {len(entries)} entries where there are {wanted}")
    head = opening.leaf.head if opening else b""
    balances = opening.leaf.balances if opening else (0, 0, 0, 0)
    settings = opening.leaf.settings if opening else (0, 0, 0)
    flags = opening.leaf.flags if opening else 0
    time = opening.state.time if opening else 0

    lines: list[tuple[int, Line, tuple[int, int, int, int]]] = []
    leaves: list[tuple[int, bytes, Line]] = []
    for text in entries:
        at = f"{where}, entry {entry_number}"
        line = read_line(base64_bytes(text, at), at)
        record = line.record
        leaf = line.leaf(account, entry_number)
        if (line.kind == ACCOUNT) != (entry_number == 0):
            refuse("bad_statement", f"{at}: the opening, and only it, is entry 0")
        if line.kind == ACCOUNT:
            if record.id != account:
                refuse("bad_statement", f"{at}: the opening of another account")
            head, flags = leaf, record.flags
        else:
            head = keyed("chain", head + leaf)
        if record.ledger != closing.leaf.ledger:
            refuse("bad_statement", f"{at}: of another ledger")
        if line.kind == SETTINGS:
            settings = (record.amount, record.pending_id, record.flags)
        if not is_imported(line):
            if record.timestamp <= time:
                refuse("bad_statement", f"{at}: its time is not after what was before it")
            time = record.timestamp
        balances = balances_after(line, balances, at)
        lines.append((entry_number, line, balances))
        leaves.append((entry_number, leaf, line))
        entry_number += 1

    if head != closing.leaf.head:
        refuse("bad_statement", f"{where}: the entries do not chain to the closing state")
    if balances != closing.leaf.balances:
        refuse("bad_statement", f"{where}: the entries do not lead to the closing balances")
    if settings != closing.leaf.settings:
        refuse("bad_statement", f"{where}: the settings are not those of the closing state")
    if (flags ^ closing.leaf.flags) & ~ACCOUNT_CLOSED:
        refuse("bad_statement", f"{where}: flags of the account changed")
    if time > closing.state.time:
        refuse("bad_statement", f"{where}: an entry later than the closing state")

    # From here on the statement is complete.
    for entry_number, leaf, line in leaves:
        exam.fact(("entry", entry_number, "of account", account), leaf)
        if line.other_account is not None:
            exam.fact(("entry", line.other_number, "of account", line.other_account), leaf)
    statement = Statement(account, opening, closing, lines)
    exam.statements[place] = statement
    return exam.proved(*describe_statement(statement))


def account_item(exam: Examination, place: Any, where: str) -> AccountItem:
    number(place, where)
    if place not in exam.accounts:
        refuse("malformed", f"{where}: item {place} is no account")
    return exam.accounts[place]


def check_ends(account: int, opening: AccountItem | None, closing: AccountItem, where: str) -> None:
    """Both ends are states of this account, the older one first."""
    if closing.leaf.id != account:
        refuse("bad_statement", f"{where}: the closing state is of another account")
    if closing.leaf.kind != 0:
        refuse("bad_statement", f"{where}: not an account of money")
    if opening is None:
        return
    a, b = opening.leaf, closing.leaf
    if (a.id, a.kind, a.ledger, a.code, a.ordinal) != (b.id, b.kind, b.ledger, b.code, b.ordinal):
        refuse("bad_statement", f"{where}: the opening state is of another account")
    if opening.state.block > closing.state.block:
        refuse("bad_statement", f"{where}: the opening state is after the closing one")


def read_line(data: bytes, where: str) -> Line:
    """Take one entry of a statement apart; every byte has its meaning, and none is left over."""
    if len(data) < 115:
        refuse("malformed", f"{where}: {len(data)} bytes are too few")
    kind, side, bits = data[0], data[1], data[2]
    place = 115

    def take(size: int) -> bytes:
        nonlocal place
        place += size
        if place > len(data):
            refuse("malformed", f"{where}: {len(data)} bytes are too few")
        return data[place - size : place]

    if (
        bits > 31
        or (bits & OTHER_HIDDEN and bits & OTHER_OPENED)
        or (bits & EXT_HIDDEN and bits & EXT_OPENED)
    ):
        refuse("malformed", f"{where}: bits {bits}")
    released = int.from_bytes(take(16), "little") if bits & RELEASED else 0
    hidden = take(32) if bits & OTHER_HIDDEN else None
    account, other_number, salt = None, 0, b""
    if bits & OTHER_OPENED:
        account = int.from_bytes(take(16), "little")
        other_number = int.from_bytes(take(8), "little")
        salt = take(16)
    ext = take(32) if bits & EXT_HIDDEN else ZEROS
    if bits & EXT_OPENED:
        ext_salt = take(32)
        metadata = take(int.from_bytes(take(2), "little"))
        if len(metadata) > METADATA_SIZE_MAX:
            refuse("too_large", f"{where}: metadata of {len(metadata)} bytes")
        ext = keyed("ext", ext_salt + metadata)
    if place != len(data):
        refuse("malformed", f"{where}: {len(data) - place} bytes too many")
    record = Record(data[3:99])
    if bits & RELEASED and released == 0:
        refuse("malformed", f"{where}: a released amount of 0 is not written")
    if kind in OWN_KINDS:
        fits = side == OWN and not bits & (OTHER_HIDDEN | OTHER_OPENED)
    else:
        fits = side in (DEBIT, CREDIT) and bool(bits & (OTHER_HIDDEN | OTHER_OPENED))
    if kind not in (ACCOUNT, TRANSFER, EXPIRY, SETTINGS) or not fits:
        refuse("bad_statement", f"{where}: kind {kind} and side {side} do not go together")
    check_released(kind, record, released, where, "bad_statement")
    return Line(
        *(kind, side, record, released, data[99:115]),
        *(hidden, account, other_number, salt, ext),
    )


def balances_after(
    line: Line, before: tuple[int, int, int, int], where: str
) -> tuple[int, int, int, int]:
    """Return debits pending and posted, credits pending and posted, after the entry."""
    if line.side == OWN:
        return before
    record, flags = line.record, line.record.flags if line.kind == TRANSFER else 0
    pending = record.amount if flags & TRANSFER_PENDING else -line.released
    posted = 0 if flags & (TRANSFER_PENDING | TRANSFER_VOID) else record.amount
    if flags & TRANSFER_POST and posted > line.released:
        refuse("bad_statement", f"{where}: posts more than was pending")
    if flags & TRANSFER_VOID and record.amount != line.released:
        refuse("bad_statement", f"{where}: voids another amount than was pending")
    debits_pending, debits_posted, credits_pending, credits_posted = before
    if line.side == DEBIT:
        debits_pending += pending
        debits_posted += posted
    else:
        credits_pending += pending
        credits_posted += posted
    after = (debits_pending, debits_posted, credits_pending, credits_posted)
    if min(after) < 0 or max(after) > U128_MAX:
        refuse("bad_statement", f"{where}: a balance below zero or above 2^128 - 1")
    return after


def is_imported(line: Line) -> bool:
    flag = {ACCOUNT: ACCOUNT_IMPORTED, TRANSFER: TRANSFER_IMPORTED}.get(line.kind, 0)
    return bool(line.record.flags & flag)


def describe_statement(statement: Statement) -> Text:
    opening, closing, count = statement.opening, statement.closing, len(statement.lines)
    end, end_date = time_of(closing.state.time), date_text(closing.state.date)
    if opening is None:
        begin, begin_zh = "its opening", "开户"
    else:
        when, date = time_of(opening.state.time), date_text(opening.state.date)
        begin = f"the state after block {opening.state.block} ({when}, business date {date})"
        begin_zh = f"第 {opening.state.block} 区块后的状态（{when}，营业日 {date}）"
    return Text(
        f"These {count} entries are all the entries of account {statement.account} (ledger "
        f"{closing.leaf.ledger}) from {begin} to the state after block {closing.state.block} "
        f"({end}, business date {end_date}), and they lead from the opening balances to the "
        "closing ones.",
        f"账户 {statement.account}（账簿 {closing.leaf.ledger}）自{begin_zh}"
        f"至第 {closing.state.block} 区块后的状态（{end}，营业日 {end_date}）"
        f"的全部分录即此 {count} 条，"
        "期初余额经这些分录得出期末余额。",
    )


# -- Totals ----------------------------------------------------------------------------------------


def check_trial_balance(exam: Examination, place: int, item: Any) -> Text:
    """In the state with all its groups, each ledger's debits equal its credits."""
    where = f"item {place}"
    (at,) = fields(item, where, "state", also=("type",))
    state = place_in(exam.states, at, where)
    if not state.complete:
        refuse("malformed", f"{where}: a trial balance needs all groups of its state")
    if exam.trial_balance is not None:
        refuse("malformed", f"{where}: a second trial balance")
    totals: dict[int, list[int]] = {}
    for group in state.groups.values():
        total = totals.setdefault(group.ledger, [0, 0])
        total[0] += group.sums[0]
        total[1] += group.sums[1]
    for ledger, (debits, credits) in totals.items():
        if debits != credits:
            refuse(
                "bad_trial_balance",
                f"{where}: ledger {ledger} has debits {debits} and credits {credits}",
            )
    exam.trial_balance = state
    lines = ", ".join(f"{ledger}: {debits}" for ledger, (debits, _) in sorted(totals.items()))
    when, date = time_of(state.time), date_text(state.date)
    return exam.proved(
        f"At the state after block {state.block} ({when}, business date {date}) debits equal "
        f"credits in each ledger ({lines}), over {len(state.groups)} groups of accounts.",
        f"第 {state.block} 区块后的状态（{when}，营业日 {date}）：{len(state.groups)} 组账户，"
        f"每个账簿借贷相等（{lines}）。",
    )


def check_tile(exam: Examination, place: int, item: Any) -> Text:
    """A tile opened: its sums are those of its accounts, and it leads to the head of its group."""
    where = f"item {place}"
    at, group_index, tile, texts, sums_data, sum_path = fields(
        item, where, "state", "group", "tile", "leaves", "sums", "sum_path", also=("type",)
    )
    state = place_in(exam.states, at, where)
    group = state.group(group_index, where)
    number(tile, where)
    array(texts, where)
    sums = read_sums(base64_bytes(sums_data, where, 60))
    if len(texts) != group.leaves_in_tile(tile):
        refuse("bad_sums", f"{where}: {len(texts)} leaves in tile {tile}")
    leaf_hashes: list[bytes] = []
    erased = 0
    total = NO_SUMS
    for index, text in enumerate(texts):
        data = base64_bytes(text, where)
        if len(data) == 32:
            leaf_hashes.append(data)
            erased += 1
            continue
        if len(data) != 192:
            refuse("malformed", f"{where}: a leaf of {len(data)} bytes")
        leaf = read_leaf(data)
        check_leaf(leaf, group, where, "bad_sums")
        if leaf.ordinal != TILE * tile + index:
            refuse("bad_sums", f"{where}: ordinal {leaf.ordinal} in place {index} of tile {tile}")
        leaf_hashes.append(leaf.hash)
        total = added(total, leaf.sums)
        exam.fact(("state", state.block, "account", leaf.id), leaf.hash)
    if total != sums if erased == 0 else any(a > b for a, b in zip(total, sums)):
        refuse("bad_sums", f"{where}: the sums of tile {tile} are not those of its accounts")
    top = tree_root(leaf_hashes, keyed_node("tile"))
    if not group.has_tile(tile, (top, sums), read_sum_path(sum_path, where)):
        refuse("bad_sums", f"{where}: the tile does not lead to the head of its group")
    hidden = f", {erased} of them erased and taken as stated" if erased else ""
    hidden_zh = f"，其中 {erased} 个已抹除，其数额未经验证" if erased else ""
    return exam.proved(
        f"Tile {tile} of ledger {group.ledger}, code {group.code}: the signed sums are those of "
        f"its {len(texts)} accounts{hidden}.",
        f"账簿 {group.ledger} 代码 {group.code} 的第 {tile} 片：签名的合计等于其 {len(texts)} 个"
        f"账户之和{hidden_zh}。",
    )


def check_full_state(exam: Examination, place: int, item: Any) -> Text:
    """Every account of a state, recomputed from the leaves up to the signed group heads."""
    where = f"item {place}"
    at, name = fields(item, where, "state", "file", also=("type",))
    state = place_in(exam.states, at, where)
    if string(name, where) != "state.bin":
        refuse("malformed", f"{where}: the file of a full state is state.bin")
    if not state.complete:
        refuse("malformed", f"{where}: a full state needs all groups of its state")
    if exam.full_state is not None:
        refuse("malformed", f"{where}: a second full state")
    if name not in exam.package.names:
        refuse("bad_manifest", f"{where}: there is no state.bin")
    account_count = sum(group.account_count for group in state.groups.values())
    if exam.package.size(name) != 192 * account_count:
        refuse("bad_sums", f"{where}: state.bin has not 192 bytes for each of {account_count}")
    messages = in_pieces(exam.package.pieces(name), 192)
    seen: dict[int, bytes] = {}
    erased = 0
    for group in state.groups.values():
        tiles: list[Child] = []
        for first in range(0, group.account_count, TILE):
            leaf_hashes: list[bytes] = []
            total = NO_SUMS
            for ordinal in range(first, min(first + TILE, group.account_count)):
                message = next(messages)
                if is_erased(message):
                    leaf_hash, sums, account = message[:32], erased_sums(message), None
                    erased += 1
                else:
                    leaf = read_leaf(message)
                    check_leaf(leaf, group, where, "bad_sums")
                    if leaf.ordinal != ordinal:
                        refuse("bad_sums", f"{where}: ordinal {leaf.ordinal} at {ordinal}")
                    leaf_hash, sums, account = leaf.hash, leaf.sums, leaf.id
                leaf_hashes.append(leaf_hash)
                total = added(total, sums)
                if account is not None and seen.setdefault(account, leaf_hash) != leaf_hash:
                    exam.conflict(f"{where}: account {account} twice in one state")
            tiles.append((tree_root(leaf_hashes, keyed_node("tile")), total))
        if tree_root(tiles, sum_node) != group.top:
            refuse(
                "bad_sums",
                f"{where}: the accounts of ledger {group.ledger}, code {group.code} do not give "
                "the signed head of their group",
            )
    for other, other_hash in exam.leaves_of(state.block):
        if seen.get(other, other_hash) != other_hash:
            exam.conflict(f"{where}: another leaf of account {other}")
    exam.full_state = state
    hidden = f", {erased} of them erased and taken as stated" if erased else ""
    hidden_zh = f"，其中 {erased} 个已抹除，其数额未经验证" if erased else ""
    return exam.proved(
        f"All {account_count} accounts of the state after block {state.block}{hidden} were "
        "recomputed: they give the signed state root, and their sums the totals of each group.",
        f"已重新计算第 {state.block} 区块后状态的全部 {account_count} 个账户{hidden_zh}："
        "得出签名的状态根，各组合计相符。",
    )


# -- The journal -----------------------------------------------------------------------------------


def check_consistency(exam: Examination, place: int, item: Any) -> Text:
    """The log under an older checkpoint is the beginning of the log under this one."""
    where = f"item {place}"
    note, path = fields(item, where, "old", "path", also=("type",))
    old = read_checkpoint(string(note, where))
    if old.origin != exam.origin:
        refuse("wrong_log", f"{where}: the older checkpoint is of {shown(old.origin)}")
    signers, _ = check_signatures(old, exam.policy)
    new = exam.checkpoint
    if not is_consistent(old.size, old.root, new.size, new.root, hashes(path, where)):
        refuse(
            "bad_consistency",
            f"{where}: the log of size {old.size} is not the beginning of that of {new.size}",
        )
    names = ", ".join(key.label for key in signers)
    return exam.proved(
        f"The journal only grew from the checkpoint of {old.size} intervals, signed by {names}, to "
        f"that of {new.size}.",
        f"日记账自 {old.size} 个区间的检查点（由 {names} 签名）至 {new.size} 个区间只有增加。",
    )


def check_sample(exam: Examination, place: int, item: Any) -> Text:
    """The entries shown are those that the seed draws, in order, out of all under the log."""
    where = f"item {place}"
    count, seed_text, witness, places = fields(
        item, where, "count", "seed", "witness", "items", also=("type",)
    )
    number(count, where)
    array(places, where)
    if (seed_text is None) == (witness is None):
        refuse("malformed", f"{where}: a sample has a seed or a witness, and not both")
    last = exam.last_interval
    if last is None:
        refuse("bad_sample", f"{where}: the last interval of the log is not in the bundle")
    total = last.record.first_entry + last.record.entry_count
    if not 1 <= count <= total or len(places) != count:
        refuse("bad_sample", f"{where}: {len(places)} items in a sample of {count} out of {total}")
    if seed_text is not None:
        seed = hashlib.sha256(string(seed_text, where).encode()).digest()
        origin, origin_zh = f"the text {shown(seed_text)}", f"文本 {shown(seed_text)}"
    else:
        seed = seed_of_witness(exam, string(witness, where), where)
        origin = f"the cosignature of {shown(witness)}"
        origin_zh = f"见证人 {shown(witness)} 的签名"
    for at, drawn in zip(places, draws(seed, total)):  # in this order: draws never end
        number(at, where)
        if at not in exam.entries:
            refuse("malformed", f"{where}: item {at} is no entry")
        if exam.entries[at].number != drawn:
            refuse("bad_sample", f"{where}: item {at} is not the entry {drawn} that was drawn")
    exam.sampled.update(places)
    erased = sum(exam.entries[at].erased for at in places)
    hidden = f"; {erased} of them are erased and show nothing" if erased else ""
    hidden_zh = f"；其中 {erased} 条已抹除，没有内容" if erased else ""
    return exam.proved(
        f"The {count} entries of the sample are those that {origin} draws out of {total}{hidden}.",
        f"样本的 {count} 条分录正是由{origin_zh}从 {total} 条中抽出的{hidden_zh}。",
    )


def seed_of_witness(exam: Examination, name: str, where: str) -> bytes:
    """Return the SHA-256 of the one valid cosignature of the witness with this key name."""
    found = [c for c in exam.witnesses.values() if c.key.name == name]
    lines = [s for s in exam.checkpoint.signatures if found and s.is_of(found[0].key)]
    if len(found) != 1 or len(lines) != 1:
        refuse("bad_sample", f"{where}: not one cosignature of a witness {shown(name)}")
    return hashlib.sha256(lines[0].data).digest()


def draws(seed: bytes, total: int) -> Iterator[int]:
    """Yield entry numbers below the total, each once, as the seed draws them."""
    limit = 2**64 - 2**64 % total
    drawn: set[int] = set()
    counter = 0
    while True:
        message = b"sanyuan sample v1\n" + seed + counter.to_bytes(8, "big")
        value = int.from_bytes(hashlib.sha256(message).digest()[:8], "big")
        counter += 1
        if value < limit and value % total not in drawn:
            drawn.add(value % total)
            yield value % total


ITEMS: dict[str, Callable[[Examination, int, Any], Text]] = {
    "entry": check_entry,
    "erased": check_erased,
    "account": check_account,
    "statement": check_statement,
    "trial_balance": check_trial_balance,
    "tile": check_tile,
    "full_state": check_full_state,
    "consistency": check_consistency,
    "sample": check_sample,
}


# ==================================================================================================
# 3  The parts
# ==================================================================================================

# -- Keys, notes, checkpoints ----------------------------------------------------------------------

LOG_KEY, WITNESS_KEY = 0x01, 0x04


KeyName = tuple[str, bytes]  # name and id, by which lines of a note find a key


class Key(NamedTuple):
    """A public key of the policy."""

    name: str
    id: bytes
    type: int
    public: bytes

    @property
    def key_name(self) -> KeyName:
        return (self.name, self.id)

    @property
    def label(self) -> str:
        """For people: a long name is cut off, so that two keys may have one label."""
        return f"{shown(self.name)}+{self.id.hex()}"

    def fingerprint(self, what: str, what_zh: str) -> Text:
        digest = hashlib.sha256(self.public).hexdigest()
        return Text(
            f"Trusted {what} {self.label}, SHA-256 of the public key {digest}.",
            f"所信任的{what_zh} {self.label}，公钥 SHA-256 {digest}。",
        )


def read_key(text: bytes, wanted: int, where: str) -> Key:
    """Read a vkey, ``name+hex key id+base64(type, public key)``, and check the id it states."""
    try:
        name, key_id, encoded = text.decode().split("+", 2)
        data = strict_base64(encoded)
    except ValueError:
        refuse("bad_policy", f"{where}: not a key of the form name+id+base64")
    if not is_key_name(name):
        refuse("bad_policy", f"{where}: not a key name")
    if len(data) != 33 or data[0] != wanted:
        kind = {LOG_KEY: "log", WITNESS_KEY: "witness"}[wanted]
        refuse("bad_policy", f"{where}: a {kind} key must be Ed25519 of type 0x{wanted:02x}")
    computed = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    if key_id != computed.hex():
        refuse("bad_policy", f"{where}: the key's id is {computed.hex()}, not {shown(key_id)}")
    if not is_good_public_key(data[1:]):
        refuse("bad_policy", f"{where}: not a public key that can sign")
    return Key(name, computed, wanted, data[1:])


def is_key_name(name: str) -> bool:
    return bool(name) and not any(c.isspace() or c == "+" or c < " " for c in name)


class Signature(NamedTuple):
    """One signature line of a note, not yet verified."""

    name: str
    key_id: bytes
    data: bytes

    def is_of(self, key: Key) -> bool:
        return (self.name, self.key_id) == (key.name, key.id)


class Checkpoint(NamedTuple):
    """The tree head that a note states, and the note's lines."""

    origin: str
    size: int
    root: bytes
    text: bytes
    signatures: list[Signature]


class Cosignature(NamedTuple):
    """A verified cosignature: whose, and its POSIX time."""

    key: Key
    time: int


def read_checkpoint(note: str) -> Checkpoint:
    """Take a signed note apart: three lines, an empty line, signature lines."""
    if len(note.encode()) > NOTE_SIZE_MAX:
        refuse("too_large", f"a checkpoint of {len(note)} characters")
    if re.search("[\x00-\x09\x0b-\x1f]", note):
        refuse("malformed", "the checkpoint has a control character")
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        refuse("malformed", "the checkpoint is no signed note")
    signatures = [read_signature(line) for line in lines[:-1].split("\n")]
    if len(signatures) > NOTE_SIGNATURES_MAX:
        refuse("too_large", f"a checkpoint with {len(signatures)} signatures")
    body = text.split("\n")
    if len(body) != 3 or not body[0] or not is_decimal(body[1], SIZE_MAX):
        refuse("malformed", "the checkpoint's text is not origin, size and root")
    root = base64_bytes(body[2], "the checkpoint's root", 32)
    return Checkpoint(body[0], int(body[1]), root, text.encode() + b"\n", signatures)


def read_signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "—" or not is_key_name(name):
        refuse("malformed", "a signature line of the checkpoint is not '— name base64'")
    data = base64_bytes(encoded, "a signature line of the checkpoint")
    if len(data) < 5:
        refuse("malformed", "a signature line of the checkpoint is too short")
    return Signature(name, data[:4], data[4:])


def check_signatures(
    checkpoint: Checkpoint, policy: Policy
) -> tuple[list[Key], dict[KeyName, Cosignature]]:
    """Verify every signature by a key of the policy; lines of unknown keys count for nothing.

    Returns the log keys that signed within their ranges, at least one, and the witnesses.
    """
    signers: list[Key] = []
    witnesses: dict[KeyName, Cosignature] = {}
    late = False
    keys = {(key.name, key.id): key for key in (*policy.logs, *policy.witnesses.values())}
    for signature in checkpoint.signatures:
        key = keys.get((signature.name, signature.key_id))
        if key is None:
            continue
        data, message, time = signature.data, checkpoint.text, 0
        if key.type == WITNESS_KEY:
            time = int.from_bytes(data[:8], "big")
            data = data[8:]
            message = b"cosignature/v1\ntime %d\n" % time + message
        if time > SIZE_MAX or not verify_ed25519(key.public, message, data):
            refuse("bad_signature", f"the signature of {key.label} does not verify")
        if key.type == WITNESS_KEY:
            witnesses.setdefault(key.key_name, Cosignature(key, time))
        elif key.name == checkpoint.origin:
            first, last = policy.ranges.get((key.name, key.id), (0, SIZE_MAX))
            if not first <= checkpoint.size <= last:
                late = True
            elif key not in signers:
                signers.append(key)
    if not signers:
        why = "only by a key that may not sign this size" if late else "by no log key of the policy"
        refuse("bad_signature", f"the checkpoint of size {checkpoint.size} is signed {why}")
    return signers, witnesses


# -- Policy ----------------------------------------------------------------------------------------


class Policy(NamedTuple):
    """The keys that are trusted, the log keys' ranges of sizes, and the quorum.

    Groups are in order of definition: (name, threshold, members).
    """

    logs: list[Key]
    ranges: dict[tuple[str, bytes], tuple[int, int]]
    witnesses: dict[bytes, Key]
    groups: list[tuple[bytes, int, list[bytes]]]
    quorum: bytes


def read_policy(text: bytes) -> Policy:
    """Read a C2SP tlog-policy, with the ranges of log keys in comments."""
    if len(text) > POLICY_SIZE_MAX:
        refuse("too_large", f"a policy of {len(text)} bytes")
    if re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text):
        refuse("bad_policy", "the policy has a control character")
    policy = Policy([], {}, {}, [], b"")
    quorum: bytes | None = None
    names: set[bytes] = {b"none"}
    members: set[bytes] = set()
    publics: set[bytes] = set()

    def define(name: bytes, where: str) -> None:
        if name in names:
            refuse("bad_policy", f"{where}: the name is taken")
        names.add(name)

    def add_key(data: bytes, kind: int, where: str) -> Key:
        key = read_key(data, kind, where)
        if key.public in publics:
            refuse("bad_policy", f"{where}: the same key twice")
        publics.add(key.public)
        return key

    lines = text.split(b"\n")
    if lines.pop():
        refuse("bad_policy", "the policy's last line has no line end: is it cut off?")
    for line_number, line in enumerate(lines, 1):
        where = f"policy, line {line_number}"
        words = line.replace(b"\t", b" ").split(b" ")
        words = [word for word in words if word]
        if not words:
            continue
        if words[0].startswith(b"#"):
            comment = line.replace(b"\t", b" ").strip(b" ")[1:].split()
            if comment[:1] == [b"sanyuan-range"]:
                key, sizes = read_range(comment[1:], where)
                if key in policy.ranges:
                    refuse("bad_policy", f"{where}: a second range of one key")
                policy.ranges[key] = sizes
        elif words[0] == b"log" and len(words) in (2, 3):
            policy.logs.append(add_key(words[1], LOG_KEY, where))
        elif words[0] == b"witness" and len(words) in (3, 4):
            define(words[1], where)
            policy.witnesses[words[1]] = add_key(words[2], WITNESS_KEY, where)
        elif words[0] == b"group" and len(words) >= 4:
            group = words[3:]
            for member in group:
                if member == b"none" or member not in names or member in members:
                    refuse("bad_policy", f"{where}: a member that is not defined, or used before")
                members.add(member)
            define(words[1], where)
            policy.groups.append((words[1], read_threshold(words[2], len(group), where), group))
        elif words[0] == b"quorum" and len(words) == 2 and quorum is None:
            if words[1] not in names:
                refuse("bad_policy", f"{where}: the quorum is not defined")
            quorum = words[1]
        else:
            refuse("bad_policy", f"{where}: not a line of a policy")
    if not policy.logs:
        refuse("bad_policy", "the policy names no log")
    if quorum is None:
        refuse("bad_policy", "the policy has no quorum line")
    keys = [(key.name, key.id) for key in (*policy.logs, *policy.witnesses.values())]
    if len(set(keys)) != len(keys):
        refuse("bad_policy", "two keys with one name and id")
    if not set(policy.ranges) <= {(key.name, key.id) for key in policy.logs}:
        refuse("bad_policy", "a range of a key that is no log key of the policy")
    return policy._replace(quorum=quorum)


def read_range(words: list[bytes], where: str) -> tuple[tuple[str, bytes], tuple[int, int]]:
    """Read ``<key name>+<8 hex key id> <first size> <last size, or ->``."""
    try:
        key, first, last = (word.decode() for word in words)
        name, key_id = key.split("+")
        if not re.fullmatch("[0-9a-f]{8}", key_id) or not is_decimal(first, SIZE_MAX):
            raise ValueError
        if last != "-" and not is_decimal(last, SIZE_MAX):
            raise ValueError
    except ValueError:
        refuse("bad_policy", f"{where}: not a range of a log key")
    sizes = (int(first), SIZE_MAX if last == "-" else int(last))
    if sizes[0] > sizes[1]:
        refuse("bad_policy", f"{where}: a range that ends before it begins")
    return (name, bytes.fromhex(key_id)), sizes


def read_threshold(word: bytes, member_count: int, where: str) -> int:
    if word == b"any":
        return 1
    if word == b"all":
        return member_count
    if re.fullmatch(b"[1-9][0-9]{0,5}", word) and int(word) <= member_count:
        return int(word)
    refuse("bad_policy", f"{where}: not a threshold from 1 to the count of members")


def quorum_is_met(policy: Policy, cosigned: dict[KeyName, Cosignature]) -> bool:
    met = {name: key.key_name in cosigned for name, key in policy.witnesses.items()}
    for name, threshold, members in policy.groups:
        met[name] = sum(met[member] for member in members) >= threshold
    return policy.quorum == b"none" or met[policy.quorum]


# -- Interval records ------------------------------------------------------------------------------


class StateLine(NamedTuple):
    """The newest state root that an interval's headers name."""

    block: int
    time: int
    date_before: int
    """Earlier than the date after the block: the block ended a day."""
    date: int
    root: bytes


class IntervalRecord(NamedTuple):
    """The fields of an interval record."""

    origin: str
    instance: str
    first_block: int
    last_block: int
    first_entry: int
    entry_count: int
    time: int
    date: int
    root: bytes
    last_hash: bytes
    state: StateLine | None


class Interval(NamedTuple):
    """A record that is in the log under the checkpoint, and its path."""

    place: int
    number: int
    record: IntervalRecord
    path: list[bytes]


NUMBER = "(0|[1-9][0-9]{0,19})"
HASH = "([A-Za-z0-9+/]{43}=)"
RECORD = re.compile(
    "sanyuan interval v1\n"
    "origin ([^\n]+)\n"
    "instance ([0-9a-f]{32})\n"
    f"blocks {NUMBER} {NUMBER}\n"
    f"entries {NUMBER} {NUMBER}\n"
    f"time {NUMBER}\n"
    f"date {NUMBER}\n"
    f"root {HASH}\n"
    f"last {HASH}\n"
    f"state (?:none|{NUMBER} {NUMBER} {NUMBER} {NUMBER} {HASH})\n"
    "(?:key ([^\n]+)\n)?"
)


def read_record(text: str, where: str) -> IntervalRecord:
    """Read an interval record, which has one form only."""
    if len(text.encode()) > RECORD_SIZE_MAX:
        refuse("too_large", f"{where}: a record of more than {RECORD_SIZE_MAX} bytes")
    match = RECORD.fullmatch(text)
    if match is None:
        refuse("bad_record", f"{where}: the record is not of the form 'sanyuan interval v1'")
    origin, instance, *numbers = match.groups()[:8]
    root, last, *state_words = match.groups()[8:15]
    values = [int(word) for word in (*numbers, *(word for word in state_words[:4] if word))]
    if max(values) > U64_MAX or max([values[5], *values[8:]]) > U32_MAX:
        refuse("bad_record", f"{where}: a number is too large")
    first_block, last_block, first_entry, entry_count, time, date = values[:6]
    state = None
    try:
        root, last = strict_base64(root), strict_base64(last)
        if state_words[0] is not None:
            block, state_time, before, after = values[6:10]
            state = StateLine(block, state_time, before, after, strict_base64(state_words[4]))
    except ValueError:
        refuse("bad_record", f"{where}: a hash is not canonical base64")
    if first_block > last_block or first_entry + entry_count > U64_MAX:
        refuse("bad_record", f"{where}: blocks or entries end before they begin")
    if state is not None:
        is_before = state.block < last_block and state.time <= time
        if not is_before or not state.date_before <= state.date <= date:
            refuse("bad_record", f"{where}: a state that is not before the interval's end")
    return IntervalRecord(
        *(origin, instance, first_block, last_block, first_entry, entry_count),
        *(time, date, root, last, state),
    )


def tlog_proof(interval: Interval, note: str) -> bytes:
    """Return the C2SP tlog-proof of an interval."""
    lines = ["c2sp.org/tlog-proof@v1", f"index {interval.number}"]
    lines += [base64_text(one) for one in interval.path]
    return ("\n".join(lines) + "\n\n" + note).encode()


# -- Block headers ---------------------------------------------------------------------------------


class Block:
    """A block's header."""

    def __init__(self, place: int, interval: Interval, header: bytes) -> None:
        self.place = place
        self.interval = interval
        self.magic = header[0:8]
        self.instance = header[16:32].hex()
        self.number, _term, self.first_entry, self.time = struct.unpack_from("<4Q", header, 32)
        self.state_block, self.entry_count, self.flags, self.date = struct.unpack_from(
            "<QIII", header, 80
        )
        self.previous_hash = header[104:136]
        self.root = header[136:168]
        self.state_root = header[168:200]
        self.hash = keyed("block", header)


def check_block(block: Block, path: list[bytes], instance: str, where: str) -> None:
    """The header is in its interval's tree, and says what the record says."""
    record = block.interval.record
    if block.magic != b"SANYUAN\0":
        refuse("bad_block", f"{where}: not a block header")
    if block.instance != instance:
        refuse("bad_block", f"{where}: a block of another instance")
    if not record.first_block <= block.number <= record.last_block:
        refuse("bad_block", f"{where}: block {block.number} is not in the interval")
    root = root_of_path(
        block.hash,
        block.number - record.first_block,
        record.last_block - record.first_block + 1,
        path,
        keyed_node("interval"),
    )
    if root != record.root:
        refuse("bad_block", f"{where}: block {block.number} does not lead to the interval's root")
    end = record.first_entry + record.entry_count
    is_first, is_last = block.number == record.first_block, block.number == record.last_block
    agrees = (
        record.first_entry <= block.first_entry
        and block.first_entry + block.entry_count <= end
        and (not is_first or block.first_entry == record.first_entry)
        and (not is_last or block.first_entry + block.entry_count == end)
        and bool(block.flags & BLOCK_SEAL) == is_last
        and (not is_last or (block.time, block.date) == (record.time, record.date))
        and block.time <= record.time
        and block.date <= record.date
    )
    if not agrees:
        refuse("bad_block", f"{where}: header and interval record do not agree")


# -- States and groups -----------------------------------------------------------------------------

Sums = tuple[int, int, int]  # debits posted, credits posted, credit balances
Child = tuple[bytes, Sums]  # a node of the sum tree


class Group(NamedTuple):
    """The head of a group of accounts with one kind, ledger and code."""

    kind: int
    code: int
    ledger: int
    account_count: int
    hash: bytes
    sums: Sums

    @property
    def top(self) -> Child:
        return (self.hash, self.sums)

    @property
    def tile_count(self) -> int:
        return (self.account_count + TILE - 1) // TILE

    def leaves_in_tile(self, tile: int) -> int:
        return max(0, min(TILE, self.account_count - TILE * tile))

    def has_tile(self, tile: int, child: Child, path: list[Child]) -> bool:
        """Tell whether the tile's hash and sums lead to the head's."""
        return root_of_path(child, tile, self.tile_count, path, sum_node) == self.top


class State:
    """A state root that a record names, with all its groups or with one."""

    def __init__(self, interval: Interval, line: StateLine, group_count: int) -> None:
        self.interval = interval
        self.block = line.block
        self.time = line.time
        self.date = line.date
        self.ends_day = line.date_before < line.date
        self.group_count = group_count
        self.groups: dict[int, Group] = {}

    @property
    def complete(self) -> bool:
        return len(self.groups) == self.group_count

    def group(self, index: Any, where: str) -> Group:
        number(index, where)
        if index not in self.groups:
            refuse("malformed", f"{where}: group {index} is not in the state's part")
        return self.groups[index]

    def csv(self) -> bytes:
        return trial_balance_csv(self)


def read_state(place: int, value: Any, intervals: list[Interval], where: str) -> State:
    """Read a state's groups and compare their root with the one in its interval's record."""
    if isinstance(value, dict) and "groups" in value:
        at, block, texts = fields(value, where, "interval", "block", "groups")
        array(texts, where)
        group_count, heads, path = len(texts), list(enumerate(texts)), []
    else:
        at, block, group_count, index, text, path = fields(
            value, where, "interval", "block", "group_count", "index", "group", "path"
        )
        number(group_count, where)
        number(index, where)
        heads, path = [(index, text)], hashes(path, where)
    number(block, where)
    interval = place_in(intervals, at, where)
    line = interval.record.state
    if line is None or line.block != block:
        refuse("bad_state", f"{where}: its interval's record names no state of block {block}")
    state = State(interval, line, group_count)
    digests = []
    for index, text in heads:
        data = base64_bytes(text, where, 108)
        state.groups[index] = read_group(data, where)
        digests.append(keyed("group", data + bytes(20)))
    order = [(group.kind, group.ledger, group.code) for group in state.groups.values()]
    if any(a >= b for a, b in zip(order, order[1:])):
        refuse("bad_state", f"{where}: its groups are not in order")
    node = keyed_node("groups")
    if "groups" in value:
        root: bytes | None = tree_root(digests, node)
    else:
        root = root_of_path(digests[0], heads[0][0], group_count, path, node)
    if root is None:
        refuse("bad_state", f"{where}: the path of its group has a wrong length")
    message = block.to_bytes(8, "little") + group_count.to_bytes(8, "little") + root + bytes(16)
    if keyed("state", message) != line.root:
        refuse("bad_state", f"{where}: its groups do not give the recorded state root")
    return state


def read_group(data: bytes, where: str) -> Group:
    kind, zero, code, ledger, account_count, top = struct.unpack_from("<BBHIQ32s", data)
    if zero:
        refuse("bad_state", f"{where}: a byte of a group that must be zero is not")
    if not 1 <= account_count <= U32_MAX:
        refuse("bad_state", f"{where}: a group of {account_count} accounts")
    return Group(kind, code, ledger, account_count, top, read_sums(data[48:108]))


def read_sums(data: bytes) -> Sums:
    debits, credits, net = (int.from_bytes(data[at : at + 20], "little") for at in (0, 20, 40))
    return (debits, credits, net)


def read_sum_path(value: Any, where: str) -> list[Child]:
    """Read siblings in a sum tree: hash 32, sums 60, each."""
    data = base64_bytes(value, where)
    if len(data) % 92 or len(data) > 92 * 64:
        refuse("malformed", f"{where}: a sum path of {len(data)} bytes")
    pieces = [data[at : at + 92] for at in range(0, len(data), 92)]
    return [(piece[:32], read_sums(piece[32:])) for piece in pieces]


def added(a: Sums, b: Sums) -> Sums:
    total = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    if max(total) > SUMS_MAX:
        refuse("bad_sums", "sums of more than 160 bits")
    return total


def sum_node(left: Child, right: Child) -> Child:
    """Join two nodes of the sum tree: hash over both, sums added."""
    message = b"".join(
        digest + b"".join(one.to_bytes(20, "little") for one in sums) + bytes(4)
        for digest, sums in (left, right)
    )
    return keyed("sum", message), added(left[1], right[1])


# -- Account leaves --------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """An account as a state root has it. Balances: debits pending and posted, credits pending and
    posted; settings: overdraft, ceiling, flags.
    """

    hash: bytes
    id: int
    balances: tuple[int, int, int, int]
    settings: tuple[int, int, int]
    head: bytes
    entry_count: int
    ordinal: int
    ledger: int
    code: int
    flags: int
    kind: int
    zeros: bytes

    @property
    def sums(self) -> Sums:
        debits, credits = self.balances[1], self.balances[3]
        return (debits, credits, max(credits - debits, 0))


LEAF = struct.Struct("<112x32sQQIHHHB5s16x")


def read_leaf(message: bytes) -> Leaf:
    head, entry_count, ordinal, ledger, code, flags, state, kind, zeros = LEAF.unpack(message)
    words = [int.from_bytes(message[at : at + 16], "little") for at in range(0, 112, 16)]
    return Leaf(
        keyed("account_state", message),
        words[0],
        (words[1], words[2], words[3], words[4]),
        (words[5], words[6], state),
        *(head, entry_count, ordinal, ledger, code, flags, kind, zeros),
    )


def is_erased(message: bytes) -> bool:
    """Tell whether a row of state.bin is an erased account: no real leaf has a head of zeros."""
    return message[32:80] == b"erased" + bytes(42) and message[112:] == bytes(80)


def erased_sums(message: bytes) -> Sums:
    debits = int.from_bytes(message[80:96], "little")
    credits = int.from_bytes(message[96:112], "little")
    return (debits, credits, max(credits - debits, 0))


# -- Entry records ---------------------------------------------------------------------------------

RECORD_FIELDS = struct.Struct("<48xQQQIIIHHQ")


class Record:
    """The 96 bytes of an entry's record that its leaf holds: all but the two account ids."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.id = int.from_bytes(data[0:16], "little")
        self.amount = int.from_bytes(data[16:32], "little")
        self.pending_id = int.from_bytes(data[32:48], "little")
        (low, high, self.user_data_64, self.user_data_32, self.timeout, self.ledger, self.code,
         self.flags, self.timestamp) = RECORD_FIELDS.unpack(data)  # fmt: skip
        self.user_data_128 = low | high << 64


# ==================================================================================================
# 4  The files
# ==================================================================================================

FILE_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
FIRST_FILES = ("manifest.json", "README.txt", "bundle.json")
PIECE = 1 << 20


class Package:
    """What was handed in: a zip, a folder or a lone bundle.json, and the files in it."""

    def __init__(self, kind: str, files: dict[str, Source]) -> None:
        self.kind = kind
        self.files = files
        self.names = list(files)

    def size(self, name: str) -> int:
        return self.files[name].size

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes in pieces; what is shorter than it was is refused."""
        source = self.files[name]
        left = source.size
        with source.open() as file:
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    refuse("bad_zip", f"{shown(name)} ends too early")
                left -= len(piece)
                yield piece

    def read(self, name: str, limit: int) -> bytes:
        if self.size(name) > limit:
            refuse("too_large", f"{shown(name)} has more than {limit} bytes")
        return b"".join(self.pieces(name))

    def digest(self, name: str) -> bytes:
        """Return the SHA-256 of a file; in a zip its checksum must be right too."""
        sha256, crc = hashlib.sha256(), 0
        for piece in self.pieces(name):
            sha256.update(piece)
            crc = zlib.crc32(piece, crc)
        if self.files[name].crc not in (None, crc):
            refuse("bad_zip", f"{shown(name)} does not have its checksum")
        return sha256.digest()

    def first_difference(self, name: str, wanted: bytes) -> int:
        """Return the number of the line in which a file begins to be not what it should be."""
        data = b"".join(self.pieces(name))
        pairs = enumerate(zip(data, wanted))
        end = min(len(data), len(wanted))
        same = next((at for at, (is_there, follows) in pairs if is_there != follows), end)
        return data.count(b"\n", 0, same) + 1


class Source(NamedTuple):
    """Where a file's bytes are."""

    path: str
    offset: int
    size: int
    crc: int | None
    memory: bytes | None = None

    def open(self) -> BinaryIO:
        memory = self.memory
        file: BinaryIO
        file = io.BytesIO(memory) if memory is not None else open(self.path, "rb")  # noqa: SIM115
        file.seek(self.offset)
        return file


def open_package(path: str) -> Package:
    """Find out what a path is. Raises OSError, Unjudged, or Refusal for a zip of another form."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return open_folder(path)
    if not stat.S_ISREG(mode):
        raise Unjudged(f"{shown(path)} is neither a file nor a folder")
    source = Source(path, 0, os.path.getsize(path), None)
    with source.open() as file:
        if file.read(2) == b"PK":
            return Package("zip", read_zip(source))
    return Package("bundle", {"bundle.json": source})


def package_of_bytes(data: bytes) -> Package:
    """Return a package whose zip or bundle.json is in memory."""
    source = Source("", 0, len(data), None, data)
    if data[:2] == b"PK":
        return Package("zip", read_zip(source))
    return Package("bundle", {"bundle.json": source})


def package_of_files(files: dict[str, bytes]) -> Package:
    """Return a package of files in memory, as if they were in a folder."""
    return Package("folder", {name: Source("", 0, len(d), None, d) for name, d in files.items()})


def open_folder(path: str) -> Package:
    files: dict[str, Source] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if not FILE_NAME.fullmatch(entry.name):
                refuse("bad_manifest", f"a file with the name {shown(entry.name)}")
            if not entry.is_file(follow_symlinks=False):
                refuse("bad_manifest", f"{shown(entry.name)} is not a plain file")
            size = entry.stat(follow_symlinks=False).st_size
            files[entry.name] = Source(entry.path, 0, size, None)
    return Package("folder", files)


LOCAL = struct.Struct("<IHHHHHIIIHH")
CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
END = struct.Struct("<IHHHHIIH")
ZIP_VERSION, ZIP_FLAGS, ZIP_DATE = 20, 0x0800, 0x0021


def read_zip(source: Source) -> dict[str, Source]:
    """Read a zip in its one exact form: build the headers again, and refuse what differs."""
    files: dict[str, Source] = {}
    directory: list[bytes] = []
    with source.open() as file:
        offset = 0
        while True:
            header = file.read(LOCAL.size)
            if len(header) < LOCAL.size or header[:4] != b"PK\x03\x04":
                break
            crc, size, _, name_size = LOCAL.unpack(header)[6:10]
            encoded = file.read(min(name_size, 101))
            name = encoded.decode("latin-1")
            if len(encoded) > 100 or not FILE_NAME.fullmatch(name):
                refuse("bad_zip", f"a file with the name {shown(name)}")
            if header != local_header(crc, size, name_size):
                refuse("bad_zip", f"{shown(name)}: a header of another form")
            if name in files:
                refuse("bad_zip", f"{name} is there twice")
            begin = offset + LOCAL.size + name_size
            if begin + size > source.size:
                refuse("bad_zip", f"{name} is cut off")
            files[name] = Source(source.path, begin, size, crc, source.memory)
            directory.append(central_header(crc, size, offset, encoded))
            offset = begin + size
            file.seek(offset)
        entries = b"".join(directory)
        end = END.pack(0x06054B50, 0, 0, len(files) & 0xFFFF, len(files) & 0xFFFF,
                       len(entries), offset & U32_MAX, 0)  # fmt: skip
        file.seek(offset)
        rest = file.read(len(entries) + len(end) + 1)
    if len(files) > 0xFFFF or offset > U32_MAX or rest[: len(entries) + len(end)] != entries + end:
        refuse("bad_zip", "the directory is not the one that follows from the files")
    if len(rest) > len(entries) + len(end):
        refuse("trailing_bytes", "there are bytes after the end of the zip")
    if tuple(files)[:3] != FIRST_FILES or list(files)[3:] != sorted(list(files)[3:]):
        refuse("bad_zip", "the files are not those of an export, in their order")
    return files


def local_header(crc: int, size: int, name_size: int) -> bytes:
    return LOCAL.pack(0x04034B50, ZIP_VERSION, ZIP_FLAGS, 0, 0, ZIP_DATE,
                      crc, size, size, name_size, 0)  # fmt: skip


def central_header(crc: int, size: int, offset: int, name: bytes) -> bytes:
    fixed = CENTRAL.pack(0x02014B50, ZIP_VERSION, ZIP_VERSION, ZIP_FLAGS, 0, 0, ZIP_DATE,
                         crc, size, size, len(name), 0, 0, 0, 0, 0, offset)  # fmt: skip
    return fixed + name


def read_manifest(package: Package) -> tuple[dict[str, tuple[bytes, int]], str]:
    """Return SHA-256 and size of each file that the manifest names, and the origin it states."""
    if "manifest.json" not in package.names:
        refuse("bad_manifest", "there is no manifest.json")
    try:
        manifest = parse_canonical(package.read("manifest.json", BUNDLE_SIZE_MAX), "manifest.json")
        files, form, origin = fields(manifest, "manifest.json", "files", "format", "origin")
        if form != "sanyuan export v1" or not isinstance(files, dict):
            refuse("malformed", "manifest.json is not of the form 'sanyuan export v1'")
        found = {}
        for name, value in files.items():
            sha256, size = fields(value, "manifest.json", "sha256", "size")
            number(size, "manifest.json")
            if not re.fullmatch("[0-9a-f]{64}", string(sha256, "manifest.json")):
                refuse("malformed", "manifest.json: sha256 is not 64 hex digits")
            found[name] = (bytes.fromhex(sha256), size)
        return found, string(origin, "manifest.json")
    except Refusal as refusal:
        raise Refusal("bad_manifest", refusal.reason) from None


# -- Canonical JSON --------------------------------------------------------------------------------


def parse_canonical(data: bytes, what: str) -> dict[str, Any]:
    """Parse canonical JSON: what is written in any other way than the one is refused."""
    if sum(map(data.count, (b",", b"[", b"{"))) > BUNDLE_PARTS_MAX:
        refuse("too_large", f"{what} has more than {BUNDLE_PARTS_MAX} parts")
    try:
        text = data.decode()
        value, end = DECODER.raw_decode(text)
    except ValueError as error:
        refuse("not_canonical", f"{what} is not canonical JSON: {shown(str(error))}")
    except RecursionError:
        refuse("too_large", f"{what} is nested deeper than {BUNDLE_DEPTH_MAX}")
    if text[end : end + 1] == "\n" and end + 1 < len(text):
        refuse("trailing_bytes", f"{what} goes on after its end")
    check_depth(value, what)
    try:
        same = canonical(value) == data
    except UnicodeEncodeError:
        same = False
    if not same:
        refuse("not_canonical", f"{what} is not canonical JSON")
    if not isinstance(value, dict):
        refuse("malformed", f"{what} is no object")
    return value


def canonical(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(BUNDLE_DEPTH_MAX + 1):
        inner = [one for one in level if isinstance(one, (dict, list))]
        if not inner:
            return
        level = [
            below for one in inner for below in (one.values() if isinstance(one, dict) else one)
        ]
    refuse("too_large", f"{what} is nested deeper than {BUNDLE_DEPTH_MAX}")


def parse_whole(text: str) -> int:
    if len(text) > 16 or int(text) > NUMBER_MAX or text.startswith("-"):
        raise ValueError("a number that is not from 0 to 2^53 - 1")
    return int(text)


def no_such_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]}")


DECODER = json.JSONDecoder(
    parse_int=parse_whole, parse_float=no_such_number, parse_constant=no_such_number
)

# -- Values of a bundle ----------------------------------------------------------------------------


def fields(value: Any, where: str, *names: str, also: tuple[str, ...] = ()) -> list[Any]:
    """Return an object's fields in the order asked for; it must have these and no others."""
    if not isinstance(value, dict):
        refuse("malformed", f"{where}: not an object")
    for name in names:
        if name not in value:
            refuse("malformed", f"{where}: {name} is missing")
    for name in value:
        if name not in names and name not in also:
            refuse("malformed", f"{where}: unknown field {shown(name)}")
    return [value[name] for name in names]


def number(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        refuse("malformed", f"{where}: a whole number is missing")
    return value


def boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        refuse("malformed", f"{where}: true or false is missing")
    return value


def string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        refuse("malformed", f"{where}: a text is missing")
    return value


def array(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        refuse("malformed", f"{where}: a list is missing")
    return value


Part = TypeVar("Part")


def place_in(parts: list[Part], place: Any, where: str) -> Part:
    at = number(place, where)
    if at >= len(parts):
        refuse("malformed", f"{where}: place {at} is not in the bundle")
    return parts[at]


def is_decimal(text: str, limit: int) -> bool:
    return bool(re.fullmatch("0|[1-9][0-9]{0,38}", text)) and int(text) <= limit


def decimal(value: Any, where: str, limit: int) -> int:
    if not isinstance(value, str) or not is_decimal(value, limit):
        refuse("malformed", f"{where}: not a decimal number up to {limit}")
    return int(value)


def strict_base64(text: str) -> bytes:
    """Return the bytes of standard, padded, canonical base64; ValueError for any other text."""
    data = binascii.a2b_base64(text)
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise ValueError("not canonical base64")
    return data


def base64_text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def base64_bytes(value: Any, where: str, size: int | None = None) -> bytes:
    if not isinstance(value, str):
        refuse("malformed", f"{where}: base64 is missing")
    try:
        data = strict_base64(value)
    except ValueError:
        refuse("malformed", f"{where}: not canonical base64")
    if size is not None and len(data) != size:
        refuse("malformed", f"{where}: {len(data)} bytes where there must be {size}")
    return data


def hashes(value: Any, where: str) -> list[bytes]:
    data = base64_bytes(value, where)
    if len(data) % 32 or len(data) > 64 * 32:
        refuse("malformed", f"{where}: a path of {len(data)} bytes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def in_pieces(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut a stream into rows of one size."""
    left = b""
    for piece in pieces:
        left += piece
        whole = len(left) - len(left) % size
        for at in range(0, whole, size):
            yield left[at : at + size]
        left = left[whole:]


# -- Tables for people -----------------------------------------------------------------------------

STATEMENT_HEADER = (
    "number,timestamp,time,kind,id,pending_id,side,amount,released,counterparty,ledger,code,flags,"
    "user_data_128,user_data_64,user_data_32,debits_pending,debits_posted,credits_pending,"
    "credits_posted\n"
)
TRIAL_BALANCE_HEADER = "ledger,code,account_count,debits_posted,credits_posted,credit_balances\n"


def statement_csv(statement: Statement) -> bytes:
    rows = [STATEMENT_HEADER]
    if statement.opening is not None:
        leaf = statement.opening.leaf
        columns = (leaf.entry_count - 1, "", "", "opening", *[""] * 12, *leaf.balances)
        rows.append(",".join(map(str, columns)) + "\n")
    for entry_number, line, balances in statement.lines:
        r = line.record
        other = "" if line.other_account is None else line.other_account
        head = (entry_number, r.timestamp, time_of(r.timestamp), KINDS[line.kind], r.id)
        rest = (SIDES[line.side], r.amount, line.released, other, r.ledger, r.code, r.flags)
        data = (r.user_data_128, r.user_data_64, r.user_data_32)
        rows.append(",".join(map(str, (*head, r.pending_id, *rest, *data, *balances))) + "\n")
    return "".join(rows).encode()


def trial_balance_csv(state: State) -> bytes:
    rows = [TRIAL_BALANCE_HEADER]
    for group in state.groups.values():
        columns = (group.ledger, group.code, group.account_count, *group.sums)
        rows.append(",".join(map(str, columns)) + "\n")
    return "".join(rows).encode()


EPOCH = datetime(1970, 1, 1)


def time_of(timestamp_ns: int) -> str:
    """Return a time of the ledger in RFC 3339 with nine decimals."""
    seconds, fraction = divmod(timestamp_ns, 10**9)
    return f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def time_of_seconds(seconds: int) -> str:
    if seconds > 253402300799:  # the end of year 9999
        return f"{seconds} s"
    return f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}Z"


def date_text(date: int) -> str:
    return f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}" if date else "none"


def shown(text: str) -> str:
    """Return foreign text fit for one line of a terminal: no control characters, not too long."""
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:120]
    )
    return safe + "…" if len(text) > 120 else safe


# ==================================================================================================
# 5  The trees
# ==================================================================================================

Node = TypeVar("Node")


def root_of_path(
    leaf: Node, index: int, size: int, path: list[Node], join: Callable[[Node, Node], Node]
) -> Node | None:
    """Return the root that leaf and path give in RFC 6962's shape (RFC 9162, 2.1.3.2); None when
    the path has not the length that index and size ask for.
    """
    if not 0 <= index < size:
        return None
    last = size - 1
    node = leaf
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = join(sibling, node)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = join(node, sibling)
        index >>= 1
        last >>= 1
    return node if last == 0 else None


def tree_root(nodes: Sequence[Node], join: Callable[[Node, Node], Node]) -> Node:
    """Return the root over the nodes: neighbours are joined, a last one alone moves up."""
    if not nodes:
        return ZEROS  # type: ignore[return-value]
    level = list(nodes)
    while len(level) > 1:
        above = [join(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def is_consistent(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]
) -> bool:
    """Tell whether a log grew from one root to the other (RFC 9162, 2.1.4.2)."""
    if old_size > new_size:
        return False
    if old_size == 0:
        return old_root == hashlib.sha256(b"").digest() and not path
    if old_size == new_size:
        return old_root == new_root and not path
    nodes = path if old_size & (old_size - 1) else [old_root, *path]
    if not nodes:
        return False
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old, new = sha256_node(node, old), sha256_node(node, new)
            while first and not first & 1:
                first >>= 1
                last >>= 1
        else:
            new = sha256_node(new, node)
        first >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root


def sha256_leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def sha256_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def keyed(name: str, message: bytes) -> bytes:
    """Return the BLAKE3 of the message under the key of this name."""
    return CRYPTOGRAPHY.blake3_keyed(KEYS[name], message)


def keyed_node(name: str) -> Callable[[bytes, bytes], bytes]:
    """Return the function that joins two nodes of the tree with this key."""
    blake3_keyed, key = CRYPTOGRAPHY.blake3_keyed, KEYS[name]
    return lambda left, right: blake3_keyed(key, left + right)


# ==================================================================================================
# 6  The cryptography
# ==================================================================================================

# -- Ed25519 ---------------------------------------------------------------------------------------
#
# RFC 8032 without cofactor, and strict, so that every implementation gives the same answer:
# a public key is a canonical encoding of a point that is not of small order; S is below L; R is
# compared as bytes, so only its canonical encoding can be right.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x y = T/Z


def decode_point(data: bytes) -> Point | None:
    """Return the point with this canonical encoding, or None."""
    if len(data) != 32:
        return None
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * SQRT_OF_MINUS_1 % P
        if v * x * x % P != u:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def add_points(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * D * a[3] * b[3] % P
    h = 2 * a[2] * b[2] % P
    p, q, r, s = f - e, h - g, h + g, f + e
    return (p * q % P, r * s % P, q * r % P, p * s % P)


def double_point(a: Point) -> Point:
    x2, y2 = a[0] * a[0], a[1] * a[1]
    h = x2 + y2
    e = h - (a[0] + a[1]) ** 2
    g = x2 - y2
    f = 2 * a[2] * a[2] + g
    return (e * f % P, g * h % P, f * g % P, e * h % P)


NEUTRAL: Point = (0, 1, 1, 0)
BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = decode_point(BASE_Y.to_bytes(32, "little")) or NEUTRAL


def is_good_public_key(public: bytes) -> bool:
    """Tell whether a key is a canonical encoding of a point that is not of small order."""
    point = decode_point(public)
    if point is None:
        return False
    for _ in range(3):
        point = double_point(point)
    return bool(point[0] % P != 0 or (point[1] - point[2]) % P != 0)


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    if len(signature) != 64 or not is_good_public_key(public):
        return False
    if int.from_bytes(signature[32:], "little") >= L:
        return False
    return CRYPTOGRAPHY.ed25519(public, message, signature)


def ed25519_in_python(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether [S]B - [k]A has the encoding R; the caller has checked the key and S."""
    key = decode_point(public)
    assert key is not None
    s = int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    minus = (P - key[0], key[1], key[2], P - key[3])
    table = (NEUTRAL, BASE, minus, add_points(BASE, minus))
    total: Point = NEUTRAL
    for bit in range(max(s.bit_length(), k.bit_length()) - 1, -1, -1):
        total = double_point(total)
        chosen = (s >> bit & 1) | (k >> bit & 1) << 1
        if chosen:
            total = add_points(total, table[chosen])
    inverse = pow(total[2], P - 2, P)
    x, y = total[0] * inverse % P, total[1] * inverse % P
    return bool((y | (x & 1) << 255).to_bytes(32, "little") == signature[:32])


# -- BLAKE3 ----------------------------------------------------------------------------------------

IV = (
    *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
WORDS_8, WORDS_16 = struct.Struct("<8I"), struct.Struct("<16I")

Words = tuple[int, ...]


def compress(chaining: Words, block: bytes, counter: int, size: int, flags: int) -> Words:
    """Return the first eight words of BLAKE3's compression; the block has 64 bytes."""
    v0, v1, v2, v3, v4, v5, v6, v7 = chaining
    v8, v9, va, vb = 0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A
    vc, vd, ve, vf = counter & 0xFFFFFFFF, counter >> 32, size, flags
    m = 0xFFFFFFFF
    words = WORDS_16.unpack(block)
    for _ in range(7):
        m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf = words
        # fmt: off
        # The columns.
        v0 = v0 + v4 + m0 & m; vc ^= v0; vc = (vc >> 16 | vc << 16) & m
        v8 = v8 + vc & m; v4 ^= v8; v4 = (v4 >> 12 | v4 << 20) & m
        v0 = v0 + v4 + m1 & m; vc ^= v0; vc = (vc >> 8 | vc << 24) & m
        v8 = v8 + vc & m; v4 ^= v8; v4 = (v4 >> 7 | v4 << 25) & m
        v1 = v1 + v5 + m2 & m; vd ^= v1; vd = (vd >> 16 | vd << 16) & m
        v9 = v9 + vd & m; v5 ^= v9; v5 = (v5 >> 12 | v5 << 20) & m
        v1 = v1 + v5 + m3 & m; vd ^= v1; vd = (vd >> 8 | vd << 24) & m
        v9 = v9 + vd & m; v5 ^= v9; v5 = (v5 >> 7 | v5 << 25) & m
        v2 = v2 + v6 + m4 & m; ve ^= v2; ve = (ve >> 16 | ve << 16) & m
        va = va + ve & m; v6 ^= va; v6 = (v6 >> 12 | v6 << 20) & m
        v2 = v2 + v6 + m5 & m; ve ^= v2; ve = (ve >> 8 | ve << 24) & m
        va = va + ve & m; v6 ^= va; v6 = (v6 >> 7 | v6 << 25) & m
        v3 = v3 + v7 + m6 & m; vf ^= v3; vf = (vf >> 16 | vf << 16) & m
        vb = vb + vf & m; v7 ^= vb; v7 = (v7 >> 12 | v7 << 20) & m
        v3 = v3 + v7 + m7 & m; vf ^= v3; vf = (vf >> 8 | vf << 24) & m
        vb = vb + vf & m; v7 ^= vb; v7 = (v7 >> 7 | v7 << 25) & m
        # The diagonals.
        v0 = v0 + v5 + m8 & m; vf ^= v0; vf = (vf >> 16 | vf << 16) & m
        va = va + vf & m; v5 ^= va; v5 = (v5 >> 12 | v5 << 20) & m
        v0 = v0 + v5 + m9 & m; vf ^= v0; vf = (vf >> 8 | vf << 24) & m
        va = va + vf & m; v5 ^= va; v5 = (v5 >> 7 | v5 << 25) & m
        v1 = v1 + v6 + ma & m; vc ^= v1; vc = (vc >> 16 | vc << 16) & m
        vb = vb + vc & m; v6 ^= vb; v6 = (v6 >> 12 | v6 << 20) & m
        v1 = v1 + v6 + mb & m; vc ^= v1; vc = (vc >> 8 | vc << 24) & m
        vb = vb + vc & m; v6 ^= vb; v6 = (v6 >> 7 | v6 << 25) & m
        v2 = v2 + v7 + mc & m; vd ^= v2; vd = (vd >> 16 | vd << 16) & m
        v8 = v8 + vd & m; v7 ^= v8; v7 = (v7 >> 12 | v7 << 20) & m
        v2 = v2 + v7 + md & m; vd ^= v2; vd = (vd >> 8 | vd << 24) & m
        v8 = v8 + vd & m; v7 ^= v8; v7 = (v7 >> 7 | v7 << 25) & m
        v3 = v3 + v4 + me & m; ve ^= v3; ve = (ve >> 16 | ve << 16) & m
        v9 = v9 + ve & m; v4 ^= v9; v4 = (v4 >> 12 | v4 << 20) & m
        v3 = v3 + v4 + mf & m; ve ^= v3; ve = (ve >> 8 | ve << 24) & m
        v9 = v9 + ve & m; v4 ^= v9; v4 = (v4 >> 7 | v4 << 25) & m
        # fmt: on
        words = (m2, m6, m3, ma, m7, m0, m4, md, m1, mb, mc, m5, m9, me, mf, m8)
    return (v0 ^ v8, v1 ^ v9, v2 ^ va, v3 ^ vb, v4 ^ vc, v5 ^ vd, v6 ^ ve, v7 ^ vf)


def blake3_in_python(key: Words, message: bytes, flags: int) -> bytes:
    """Return 32 bytes of BLAKE3: chunks of 1024 bytes, blocks of 64, and a tree over the chunks."""
    nodes = []
    size = len(message)
    for counter, start in enumerate(range(0, size or 1, 1024)):
        end = min(start + 1024, size)
        words = key
        for at in range(start, end or 1, 64):
            block = message[at : min(at + 64, end)]
            mode = flags | (CHUNK_START if at == start else 0)
            if at + 64 >= end:
                mode |= CHUNK_END | (ROOT if size <= 1024 else 0)
            words = compress(words, block.ljust(64, b"\0"), counter, len(block), mode)
        nodes.append(words)
    while len(nodes) > 1:
        mode = flags | PARENT | (ROOT if len(nodes) == 2 else 0)
        pairs = [WORDS_16.pack(*nodes[i], *nodes[i + 1]) for i in range(0, len(nodes) - 1, 2)]
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [compress(key, pair, 0, 64, mode) for pair in pairs] + odd
    return WORDS_8.pack(*nodes[0])


def blake3_keyed_in_python(key: bytes, message: bytes) -> bytes:
    return blake3_in_python(WORDS_8.unpack(key), message, KEYED)


def blake3_derived_key(context: str) -> bytes:
    """Return ``derive_key(context, "")``."""
    key = blake3_in_python(IV, context.encode(), CONTEXT)
    return blake3_in_python(WORDS_8.unpack(key), b"", MATERIAL)


# -- Which implementation --------------------------------------------------------------------------


class Cryptography(NamedTuple):
    """The two primitives that packages can do faster, and who does them."""

    blake3_keyed: Callable[[bytes, bytes], bytes]
    ed25519: Callable[[bytes, bytes, bytes], bool]
    words: Text


PURE = Cryptography(
    blake3_keyed_in_python, ed25519_in_python, Text("Python alone", "仅用 Python 标准库")
)


def with_packages() -> Cryptography:
    """Return the packages' primitives, or Python's own for those that are not installed."""
    chosen, names = PURE, []
    try:
        from blake3 import blake3

        chosen = chosen._replace(
            blake3_keyed=lambda key, message: bytes(blake3(message, key=key).digest())
        )
        names.append("blake3")
    except ImportError:
        pass
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        def ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
            except InvalidSignature:
                return False
            return True

        chosen = chosen._replace(ed25519=ed25519)
        names.append("cryptography")
    except ImportError:
        pass
    if names:
        packages = " and ".join(names)
        chosen = chosen._replace(
            words=Text(f"the packages {packages}", f"软件包 {' 与 '.join(names)}")
        )
    return chosen


def choose(pure: bool) -> None:
    """Let Python alone do the arithmetic, or the packages that are installed."""
    global CRYPTOGRAPHY
    CRYPTOGRAPHY = PURE if pure else with_packages()


CRYPTOGRAPHY = PURE
KEYS = {
    name: blake3_derived_key(f"sanyuan 2026 v1 {name}")
    for name in (
        *("side", "ext", "node", "chain", "block", "interval"),
        *("account_state", "tile", "sum", "group", "groups", "state"),
        *KINDS.values(),
    )
}


# ==================================================================================================
# 7  The words
# ==================================================================================================

KINDS_ZH = {
    ACCOUNT: "开户",
    TRANSFER: "转账",
    EXPIRY: "到期",
    BURNED_ID: "作废编号",
    SETTINGS: "账户设置",
    DEFINITION: "定义",
    ADMINISTRATION: "营业日变更",
}
SIDES_ZH = {DEBIT: "借方", CREDIT: "贷方", OWN: "本"}
CHECKS_ZH = {
    "files": "文件",
    "policy": "信任策略",
    "bundle": "证明包",
    "checkpoint": "检查点",
    "witnesses": "见证人",
    "intervals": "区间",
    "blocks": "区块",
    "states": "状态",
    "items": "各项",
    "parts": "组成部分",
    "contradictions": "矛盾",
    "copies": "副本",
    "expectations": "要求",
    "entry": "分录",
    "erased": "已抹除分录",
    "account": "账户余额",
    "statement": "完整对账单",
    "trial_balance": "试算平衡",
    "tile": "分片",
    "full_state": "全部账户",
    "consistency": "一致性",
    "sample": "抽样",
}
REFUSALS_ZH = {
    "not_canonical": "JSON 不是规范形式",
    "bad_digest": "证明包的摘要不符",
    "malformed": "格式错误",
    "too_large": "超出限制",
    "bad_zip": "zip 文件不是规定的形式",
    "bad_manifest": "文件与清单不符",
    "bad_policy": "信任策略无效",
    "policy_not_trusted": "证明包自带的策略不可信任",
    "bad_signature": "检查点的签名无效",
    "quorum_not_met": "见证人未达法定要求",
    "wrong_log": "不是所要求的日志",
    "bad_inclusion": "区间记录不在日志中",
    "bad_consistency": "日志并非只增不改",
    "bad_record": "区间记录无效",
    "bad_block": "区块头不符",
    "bad_state": "状态根不符",
    "bad_entry": "分录不在区块中",
    "bad_account": "账户不在状态中",
    "bad_statement": "对账单不完整或不符",
    "bad_sums": "合计与账户不符",
    "bad_trial_balance": "借贷不平",
    "bad_sample": "样本与种子不符",
    "bad_csv": "表格与证明不符",
    "contradiction": "证明之间互相矛盾",
    "not_newest": "不是最新状态",
    "wrong_account": "不是所要求的账户",
    "wrong_period": "不是所要求的期间",
    "unused_part": "含有未使用的部分",
    "trailing_bytes": "末尾有多余的字节",
}
NOT_SHOWN = {
    "bundled policy": Text(
        "WHO SIGNED: the keys were taken from the bundle itself (--trust-bundled-policy). Anyone "
        "can make a bundle with keys of his own.",
        "签名者是谁：密钥取自证明包本身（--trust-bundled-policy），任何人都能用自己的密钥制作证明包。",
    ),
    "no witness": Text(
        "That everyone sees the same log: no witness cosigned, or none was asked for.",
        "所有人看到的是同一日志：没有见证人共同签名，或策略不要求见证人。",
    ),
    "input": Text(
        "That what was entered is true, or that anything is absent or was refused: witnesses stop "
        "forks and back-dating, not false input.",
        "所录入的内容真实，或某事不存在、曾被拒绝：见证人能防止分叉和倒填日期，不能防止虚假录入。",
    ),
    "statement": Text(
        "That the account has no second chain: completeness is relative to the account's chain in "
        "the signed states. Two leaves of one account under one state, or two entries with one "
        "number, are a contradiction that anyone can carry away.",
        "该账户没有第二条链：完整性以签名状态中该账户的链为准。同一状态下同一账户有两片叶，"
        "或同一编号有两条分录，都是任何人可以出示的矛盾。",
    ),
    "dates": Text(
        "Anything to the moment of a calendar day: a statement begins and ends at kept states. "
        "Entries of the first business date made before the opening state are in its balance.",
        "精确到日历日的界限：对账单始于并止于保留的状态；首个营业日在期初状态之前的分录已含于期初余额。",
    ),
    "newest": Text(
        "That a balance is the newest, where that is not said.",
        "余额为最新（除非明确说明）。",
    ),
    "sums": Text(
        "That the sums of tiles that were not opened are those of their accounts; a full state "
        "shows it.",
        "未展开的分片合计等于其账户之和；完整状态才能证明。",
    ),
    "entry": Text(
        "What sides and metadata hold that were not opened.",
        "未公开的借贷方与附加数据的内容。",
    ),
    "sample": Text(
        "That a sample stands for the rest; a seed chosen by whoever made the journal is no seed, "
        "and who may ask a witness again and again can choose among its signatures.",
        "样本能代表其余部分；由记账方自选的种子不成其为种子，能反复请求见证人者可在其多次签名中挑选。",
    ),
    "full state": Text(
        "The balances of erased accounts, which are taken as stated.",
        "已抹除账户的余额（按所述采用）。",
    ),
    "consistency": Text(
        "That witnesses cosigned the older checkpoint: only the log's signature is asked for.",
        "较早的检查点有见证人共同签名：只要求日志的签名。",
    ),
}
WORDS = {
    "accepted": Text("ACCEPTED: everything holds.", "通过：全部检查成立。"),
    "refused": Text("REFUSED", "拒绝"),
    "error": Text("NOT JUDGED", "无法判断"),
    "proven": Text("What is proven:", "已证明："),
    "not shown": Text("What this does not show:", "未证明："),
    "by": Text("Hashes and signatures were computed by", "散列与签名的计算："),
}


# ==================================================================================================
# 8  The command line
# ==================================================================================================


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the bundle that the arguments name, write the verdict, return the exit status."""
    options = parse_arguments(arguments)
    choose(options.pure or os.environ.get("SANYUAN_VERIFY_PURE", "") not in ("", "0"))
    try:
        report = examine_paths(options)
    except Refusal as refusal:  # of the package as a whole, before there were checks
        report = Report()
        detail = Text(refusal.reason, f"{REFUSALS_ZH[refusal.code]}（{refusal.reason}）")
        report.checks.append(Check("files", False, detail))
        report.verdict, report.code, report.reason = "refused", refusal.code, refusal.reason
    except Unjudged as unjudged:
        report = Report()
        report.reason = str(unjudged)
    except OSError as error:
        report = Report()
        report.reason = f"{shown(str(error.filename))}: {shown(error.strerror or 'unreadable')}"
    except Exception as error:
        # A defect of this file, and never a pass.
        report = Report()
        report.reason = f"internal error: {type(error).__name__}: {shown(str(error))}"
    text = json_of(report, options.lang) if options.json else text_of(report, options.lang)
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError:
        return 2  # nobody can read the verdict
    return {"accepted": 0, "refused": 1}.get(report.verdict, 2)


def examine_paths(options: argparse.Namespace) -> Report:
    policy = None
    if options.policy is not None:
        if options.trust_bundled_policy:
            raise Unjudged("--policy and --trust-bundled-policy exclude each other")
        with open(options.policy, "rb") as file:
            policy = file.read(POLICY_SIZE_MAX + 1)
    expected = Expectations(
        accounts=[read_account_option(text) for text in options.account],
        date_from=read_date_option(options.date_from),
        date_to=read_date_option(options.date_to),
        origin=options.origin,
        newest=options.newest,
    )
    package = open_package(options.bundle)
    return examine(package, policy, expected, trust_bundled_policy=options.trust_bundled_policy)


def read_account_option(text: str) -> int:
    if not is_decimal(text, U128_MAX):
        raise Unjudged(f"--account {shown(text)}: not an account's id in decimal digits")
    return int(text)


def read_date_option(text: str | None) -> int:
    """Return YYYYMMDD of a date of the calendar, 0 of none."""
    if text is None:
        return 0
    match = re.fullmatch("([0-9]{4})-([0-9]{2})-([0-9]{2})", text)
    if match:
        year, month, day = (int(part) for part in match.groups())
        if year and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]:
            return 10000 * year + 100 * month + day
    raise Unjudged(f"{shown(text)}: not a date of the form YYYY-MM-DD")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py",
        description="Checks offline what a Sanyuan ledger proves. 离线验证三元账本的证明。",
        epilog="Exit status: 0 everything holds, 1 something is refused, 2 not judged.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a zip, a folder with its files, or a bundle.json")
    add("--policy", metavar="FILE", help="the keys you trust, from elsewhere than the bundle")
    add("--account", metavar="ID", action="append", default=[], help="exactly these accounts")
    add("--from", metavar="DATE", dest="date_from", help="the statements begin by YYYY-MM-DD")
    add("--to", metavar="DATE", dest="date_to", help="the statements cover YYYY-MM-DD to its end")
    add("--origin", metavar="NAME", help="the log that it must be")
    add("--newest", action="store_true", help="the balances must be the newest")
    add("--json", action="store_true", help="write the verdict as JSON")
    add(
        "--trust-bundled-policy",
        action="store_true",
        help="take the keys from the bundle itself: shows nothing about who signed",
    )
    add("--lang", choices=("en", "zh"), default="en", help="the language of the verdict")
    add("--pure", action="store_true", help="use the standard library alone")
    return parser.parse_args(arguments)


def text_of(report: Report, lang: str) -> str:
    lines = []
    for check in report.checks:
        mark = "ok" if check.ok else word("refused", lang)
        lines.append(f"{mark:<9}{name_of_check(check.name, lang)}: {getattr(check.detail, lang)}")
    if report.verdict == "accepted":
        lines.append(word("accepted", lang))
        for title, texts in (("proven", report.proven), ("not shown", report.not_shown)):
            lines += ["", word(title, lang), *(f"- {getattr(text, lang)}" for text in texts)]
        lines += ["", f"{word('by', lang)} {getattr(CRYPTOGRAPHY.words, lang)}"]
    else:
        code = f" ({report.code})" if report.code else ""
        lines.append(f"{word(report.verdict, lang)}{code}: {reason_of(report, lang)}")
    return "\n".join(lines) + "\n"


def json_of(report: Report, lang: str) -> str:
    checks = [
        {"name": check.name, "ok": check.ok, "detail": getattr(check.detail, lang)}
        for check in report.checks
    ]
    reason = reason_of(report, lang) if report.verdict != "accepted" else None
    value = {
        "verdict": report.verdict, "reason": reason, "code": report.code, "checks": checks
    }  # fmt: skip
    return json.dumps(value, ensure_ascii=False) + "\n"


def reason_of(report: Report, lang: str) -> str:
    reason = report.reason or ""
    if lang == "zh" and report.code in REFUSALS_ZH:
        return f"{REFUSALS_ZH[report.code]}（{reason}）"
    return reason


def word(name: str, lang: str) -> str:
    return str(getattr(WORDS[name], lang))


def name_of_check(name: str, lang: str) -> str:
    if lang == "en":
        return name
    if name.startswith("item "):
        place, kind = name[5:].split(": ")
        return f"第 {place} 项：{CHECKS_ZH[kind]}"
    return CHECKS_ZH[name]


if __name__ == "__main__":
    sys.exit(main())
