"""The zip that an auditor is handed: bundle.json and, beside it, what people read.

It is written in the one exact form of docs/proofs.md: files are stored, in a fixed order, without
anything that could differ. A verifier makes the same bytes again from names and contents.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from ledger import layout
from ledger.errors import DiskFailed, RequestRefused
from ledger.proof import canonical
from ledger.proof.bundle import STATE_FILE
from ledger.proof.entries import CREDIT, DEBIT, KIND_NAMES, OWN, Entry
from ledger.proof.prover import Proven, PublishedLog, Statement
from ledger.proof.states import AccountState, States

FORMAT: Final = "sanyuan export v1"
ZIP_BYTES_MAX: Final = (1 << 32) - (1 << 24)
"""Without zip64, sizes and offsets have 32 bits."""
PIECE_BYTES: Final = 1 << 20
_MANIFEST: Final = "manifest.json"
_README: Final = "README.txt"
_BUNDLE: Final = "bundle.json"
_FIRST: Final = (_README, _BUNDLE)
_VERIFIERS: Final = tuple(Path(__file__).with_name(name) for name in ("verify.html", "verify.py"))
_SUMS: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_SIDE_NAMES: Final = {DEBIT: "debit", CREDIT: "credit", OWN: "own"}
STATEMENT_HEADER: Final = (
    "number,timestamp,time,kind,id,pending_id,side,amount,released,counterparty,ledger,code,flags,"
    "user_data_128,user_data_64,user_data_32,"
    "debits_pending,debits_posted,credits_pending,credits_posted\n"
)
TRIAL_BALANCE_HEADER: Final = (
    "ledger,code,account_count,debits_posted,credits_posted,credit_balances\n"
)


# ----------------------------------------------------------------------------------------------
# What people read
# ----------------------------------------------------------------------------------------------


def statement_csv(statement: Statement, *, counterparty: bool = False) -> bytes:
    """Return statement-<account>.csv; ``counterparty``: the other sides are opened."""
    lines = [STATEMENT_HEADER]
    opening = statement.opening
    if opening is not None:
        balances = ",".join(map(str, _balances(opening)))
        lines.append(f"{opening.entry_count - 1},,,opening{',' * 13}{balances}\n")
    for entry, row in zip(statement.entries, statement.rows, strict=True):
        which = entry.side_of(statement.account_id)
        own, other = (entry.credit, entry.debit) if which == CREDIT else (entry.debit, entry.credit)
        assert own is not None
        shown = ""
        if counterparty and other is not None and other.salt is not None:
            shown = str(other.account_id)
        side = row["credit" if which == CREDIT else "debit"][0]
        balances = ",".join(str(layout.to_int(side[name])) for name in _SUMS)
        lines.append(f"{own.number},{_entry_fields(entry, _SIDE_NAMES[which], shown)},{balances}\n")
    return "".join(lines).encode()


_RECORD: Final = struct.Struct("<16s16s16s16sQIIIHHQ")


def _entry_fields(entry: Entry, side: str, counterparty: str) -> str:
    (
        id_,
        amount,
        pending_id,
        user_data_128,
        user_data_64,
        user_data_32,
        _timeout,
        ledger,
        code,
        flags,
        timestamp,
    ) = _RECORD.unpack(entry.record)
    fields = (
        timestamp,
        time_text(timestamp),
        KIND_NAMES[entry.kind],
        int.from_bytes(id_, "little"),
        int.from_bytes(pending_id, "little"),
        side,
        int.from_bytes(amount, "little"),
        entry.released,
        counterparty,
        ledger,
        code,
        flags,
        int.from_bytes(user_data_128, "little"),
        user_data_64,
        user_data_32,
    )
    return ",".join(map(str, fields))


def time_text(timestamp: int) -> str:
    """Return a time in ns as RFC 3339 with nine decimals."""
    seconds, rest = divmod(timestamp, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _balances(state: AccountState) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(state.leaf[start : start + 16], "little") for start in range(16, 80, 16)
    )


_GROUP: Final = struct.Struct("<BBHIQ32s20s20s20s")


def trial_balance_csv(groups: list[bytes]) -> bytes:
    """Return trial-balance.csv of the group fields (108 bytes each) of a state."""
    lines = [TRIAL_BALANCE_HEADER]
    for group in groups:
        _, _, code, ledger, count, _, *sums = _GROUP.unpack(group)
        shown = ",".join(str(int.from_bytes(one, "little")) for one in sums)
        lines.append(f"{ledger},{code},{count},{shown}\n")
    return "".join(lines).encode()


_README_TEXT: Final = """\
Proofs of the ledger {origin}
{underline}

What is in here
  bundle.json            the proofs; everything else can be made from it, or belongs to it
  checkpoint             the signed checkpoint that all proofs lead to
  statement-*.csv        statements for reading; the proofs cover every line
  trial-balance.csv      the sums of each ledger and code; the proofs cover every line
  state.bin              every account at one moment, 192 bytes each
  interval-*.tlog-proof  the same inclusion in the outer log, for tools of transparency logs
  policy.txt             a copy of the policy: do not trust this one
  verify.py verify.html  copies of the verifier: do not trust these
  manifest.json          SHA-256 and size of every file
Not every package has every file.

How to check it
  Get the verifier (verify.py, or verify.html for a browser) and the policy, which names the keys
  of the ledger and of its witnesses, from somewhere else than this package: from your own
  archive, the regulator, the witnesses. Whoever made this package could have put anything into
  it. No network is needed:

      python verify.py PACKAGE.zip --policy YOUR-POLICY.txt

  It needs Python 3.11 or newer and nothing else, says what was proven and what was not, and ends
  with status 0 only when everything holds.


账本 {origin} 的证明
{underline}

包内文件
  bundle.json            证明本身；其他文件由它得出，或从属于它
  checkpoint             所有证明所指向的已签名检查点
  statement-*.csv        供阅读的对账单；每一行都有证明
  trial-balance.csv      各账本、各科目代码的合计；每一行都有证明
  state.bin              某一时刻的全部账户，每户 192 字节
  interval-*.tlog-proof  同一内容在外层日志中的包含证明，供透明日志工具使用
  policy.txt             信任策略的副本：请勿信任此副本
  verify.py verify.html  验证程序的副本：请勿信任此副本
  manifest.json          每个文件的 SHA-256 与大小
并非每个包都含有上述全部文件。

如何核验
  请从本包以外的来源（自己的存档、监管机构、见证方）取得验证程序（verify.py，或在浏览器中打开的
  verify.html）和信任策略。策略写明账本及其见证方的公钥。制作本包的人可以在包里放入任何内容。
  核验不需要网络：

      python verify.py PACKAGE.zip --policy YOUR-POLICY.txt

  只需 Python 3.11 或更新版本。程序会说明证明了什么、没有证明什么；只有全部成立时退出状态才为 0。
"""


def readme(origin: str) -> bytes:
    """Return README.txt."""
    return _README_TEXT.format(origin=origin, underline="=" * 60).encode()


# ----------------------------------------------------------------------------------------------
# The package
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    content: bytes | IO[bytes]
    size: int
    crc: int
    sha256: str

    def pieces(self) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            for start in range(0, self.size, PIECE_BYTES):
                yield self.content[start : start + PIECE_BYTES]
            return
        self.content.seek(0)
        while piece := self.content.read(PIECE_BYTES):
            yield piece


def _file(name: str, content: bytes) -> _File:
    digest = hashlib.sha256(content).hexdigest()
    return _File(name, content, len(content), zlib.crc32(content), digest)


def _spooled(name: str, pieces: Iterator[bytes], most: int) -> _File:
    """A file whose content does not stay in memory; it is gone when it is closed."""
    digest, crc, size = hashlib.sha256(), 0, 0
    content = tempfile.TemporaryFile(prefix="sanyuan-export-")  # noqa: SIM115
    try:
        for piece in pieces:
            content.write(piece)
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            if size > most:
                raise RequestRefused("proof_too_large", f"{name} would have more than {most} bytes")
    except OSError as error:
        content.close()
        raise DiskFailed(f"{name} cannot be put aside: {error}") from error
    except BaseException:
        content.close()
        raise
    return _File(name, content, size, crc, digest.hexdigest())


class Package:
    """A finished package: ``size`` bytes, which ``pieces`` yields. Close it afterwards."""

    def __init__(self, files: list[_File], origin: str) -> None:
        first = {name: place for place, name in enumerate(_FIRST)}
        ordered = sorted(files, key=lambda file: (first.get(file.name, len(first)), file.name))
        manifest = canonical.encode(
            {
                "files": {f.name: {"sha256": f.sha256, "size": f.size} for f in ordered},
                "format": FORMAT,
                "origin": origin,
            }
        )
        self._files = [_file(_MANIFEST, manifest), *ordered]
        names = sum(len(file.name) for file in self._files)
        overhead = len(self._files) * (_LOCAL.size + _CENTRAL.size) + 2 * names + _END.size
        self.size = overhead + sum(file.size for file in self._files)
        if self.size > ZIP_BYTES_MAX:
            self.close()
            raise RequestRefused(
                "proof_too_large", f"the package would have {self.size} bytes: more than a zip has"
            )

    def pieces(self) -> Iterator[bytes]:
        """Yield the zip, a piece at a time."""
        offset, directory = 0, []
        for file in self._files:
            name = file.name.encode("ascii")
            common = (_FLAGS, 0, 0, _DATE, file.crc, file.size, file.size, len(name), 0)
            directory.append(
                _CENTRAL.pack(0x02014B50, _VERSION, _VERSION, *common, 0, 0, 0, 0, offset) + name
            )
            yield _LOCAL.pack(0x04034B50, _VERSION, *common) + name
            yield from file.pieces()
            offset += _LOCAL.size + len(name) + file.size
        whole = b"".join(directory)
        count = len(directory)
        yield whole + _END.pack(0x06054B50, 0, 0, count, count, len(whole), offset, 0)

    def close(self) -> None:
        """Let go of what was put aside on disk."""
        for file in self._files:
            if not isinstance(file.content, bytes):
                file.content.close()


_VERSION: Final = 20
_FLAGS: Final = 0x0800
_DATE: Final = 0x0021
_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<IHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<IHHHHIIH")


def package(
    proven: Proven,
    *,
    log: PublishedLog,
    states: States,
    policy: bytes | None = None,
    counterparty: bool = False,
) -> Package:
    """Return the package of a bundle; ``policy`` is a copy for the reader's convenience.

    The full state, when the bundle has one, is put into a file in the system's temporary directory
    until the package is closed. Raises RequestRefused("proof_too_large") and DiskFailed.
    """
    files = [
        _file(_README, readme(proven.origin)),
        _file(_BUNDLE, proven.bundle),
        _file("checkpoint", proven.note.encode()),
        *(
            _file(f"statement-{one.account_id}.csv", statement_csv(one, counterparty=counterparty))
            for one in proven.statements
        ),
        *(_file(path.name, path.read_bytes()) for path in _VERIFIERS),
        *(
            _file(f"interval-{index}.tlog-proof", log.tlog_proof(index, proven.note).encode())
            for index in proven.intervals
        ),
    ]
    if policy is not None:
        files.append(_file("policy.txt", policy))
    if proven.trial_balance_block is not None:
        fields = [bytes(group.fields) for group in states.groups(proven.trial_balance_block)]
        files.append(_file("trial-balance.csv", trial_balance_csv(fields)))
    if proven.full_state_block is not None:
        pieces = states.messages(proven.full_state_block)
        files.append(_spooled(STATE_FILE, pieces, ZIP_BYTES_MAX))
    return Package(files, proven.origin)
