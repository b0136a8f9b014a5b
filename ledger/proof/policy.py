"""Whom an auditor trusts: C2SP tlog-policy files, read strictly, and the question whether a
checkpoint satisfies one.

A policy lists keys of logs and witnesses and says which cosignatures are enough. When a log's key
was replaced both keys are listed, and a comment of ours gives each the checkpoint sizes that it may
sign::

    # sanyuan-range <key name>+<8 hex key id> <first size> <last size, or ->

Bytes in, values out; no file, no network, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ledger.errors import ConfigurationError
from ledger.proof.notes import (
    COSIGNATURE,
    ED25519,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    Signature,
    VerifierKey,
    is_good_public_key,
    parse_checkpoint,
    parse_decimal,
    parse_note,
)

POLICY_SIZE_MAX: Final = 256 * 1024
PART_COUNT_MAX: Final = 256
"""Logs, witnesses and groups, each."""
NONE: Final = "none"
"""The name of the quorum that needs nobody."""
RANGE: Final = "sanyuan-range"

_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_THRESHOLD: Final = re.compile(r"[1-9][0-9]{0,3}")


class BadPolicy(ConfigurationError):
    """A policy that cannot be used; the message is one line and names the line of the file."""


class QuorumNotMet(BadSignature):
    """The log signed, but the cosignatures are not enough."""


@dataclass(frozen=True, slots=True)
class Log:
    """A key of a log, and the checkpoint sizes that it may sign."""

    key: VerifierKey
    url: str | None = None
    first_size: int = 0
    last_size: int | None = None

    def may_sign(self, size: int) -> bool:
        return self.first_size <= size and (self.last_size is None or size <= self.last_size)


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: its name in the policy, its key, and where it takes checkpoints."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A name that counts as having cosigned when at least ``threshold`` of its members have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Approved:
    """A checkpoint that satisfies a policy, and by whom."""

    checkpoint: Checkpoint
    log: Log
    cosignatures: dict[Witness, Signature]


@dataclass(frozen=True, slots=True)
class Policy:
    """Logs, witnesses, groups in order of definition, and the name that must have cosigned."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str

    def __bytes__(self) -> bytes:
        """Return a policy file that says the same; its comments but those of ranges are gone."""
        lines = []
        for log in self.logs:
            lines.append(" ".join(filter(None, ("log", str(log.key), log.url))))
            if log.first_size or log.last_size is not None:
                last = "-" if log.last_size is None else log.last_size
                lines.append(f"# {RANGE} {log.key.name}+{log.key.hex_id} {log.first_size} {last}")
        for one in self.witnesses:
            lines.append(" ".join(filter(None, ("witness", one.name, str(one.key), one.url))))
        for group in self.groups:
            lines.append(f"group {group.name} {group.threshold} {' '.join(group.members)}")
        lines.append(f"quorum {self.quorum}\n")
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    def logs_of(self, origin: str) -> tuple[Log, ...]:
        """Return the keys of a log, which all have its origin as their name."""
        return tuple(log for log in self.logs if log.key.name == origin)

    def quorum_met(self, names: Iterable[str]) -> bool:
        """Tell whether cosignatures of the witnesses with these names are enough."""
        if self.quorum == NONE:
            return True
        cosigned = set(names) & {witness.name for witness in self.witnesses}
        for group in self.groups:  # members are defined before their group
            if sum(member in cosigned for member in group.members) >= group.threshold:
                cosigned.add(group.name)
        return self.quorum in cosigned

    @property
    def needed_witnesses(self) -> tuple[Witness, ...]:
        """The witnesses whose cosignature can count towards the quorum."""
        groups = {group.name: group for group in self.groups}
        needed: set[str] = set()
        waiting = [self.quorum]
        while waiting:
            name = waiting.pop()
            if name in groups:
                waiting.extend(groups[name].members)
            else:
                needed.add(name)
        return tuple(witness for witness in self.witnesses if witness.name in needed)

    def approve(self, note: Note | bytes | str) -> Approved:
        """Return a signed checkpoint's content when a log of the policy signed it and the quorum
        cosigned it.

        Raises BadNote when it is not a checkpoint, BadSignature when no listed key of its origin
        that may sign its size did or any known key's signature does not verify, QuorumNotMet when
        that is all that is missing.
        """
        note = note if isinstance(note, Note) else parse_note(note)
        checkpoint = parse_checkpoint(note.text)
        log = self.signing_log(note, checkpoint)
        cosignatures = {
            witness: line
            for witness in self.witnesses
            if (line := note.signed_by(witness.key)) is not None
        }
        if not self.quorum_met(witness.name for witness in cosignatures):
            names = ", ".join(sorted(witness.name for witness in cosignatures)) or "nobody"
            raise QuorumNotMet(f"the quorum {self.quorum} is not met: {names} cosigned")
        return Approved(checkpoint, log, cosignatures)

    def signing_log(self, note: Note, checkpoint: Checkpoint) -> Log:
        """Return the log, of those that may, whose key signed; BadSignature when there is none."""
        logs = self.logs_of(checkpoint.origin)
        if not logs:
            raise BadSignature(f"the policy has no log named {checkpoint.origin}")
        signed = [log for log in logs if note.signed_by(log.key) is not None]
        if not signed:
            raise BadSignature(f"no listed key of {checkpoint.origin} signed the checkpoint")
        for log in signed:
            if log.may_sign(checkpoint.size):
                return log
        key = signed[0].key
        raise BadSignature(
            f"{key.name}+{key.hex_id} may not sign a checkpoint of size {checkpoint.size}"
        )


def policy_of_logs(keys: Iterable[VerifierKey]) -> Policy:
    """Return a policy of these logs that needs no witness: what a witness works by."""
    lines = "".join(f"log {key}\n" for key in keys)
    return parse_policy(f"{lines}quorum {NONE}\n".encode())


def parse_policy(data: bytes, *, needs_log: bool = True) -> Policy:
    """Read a policy file; BadPolicy names the line that is wrong. Without a log it is refused
    unless ``needs_log`` is False.
    """
    if len(data) > POLICY_SIZE_MAX:
        raise BadPolicy(f"a policy of {len(data)} bytes; at most {POLICY_SIZE_MAX} are read")
    lines = data.split(b"\n")
    if lines.pop():
        raise BadPolicy(f"line {len(lines) + 1}: it has no line end; is the file cut off?")
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        try:
            if _FORBIDDEN.search(line):
                raise BadPolicy("a control character")
            # Octets beyond ASCII are opaque, and this is the reading of them that loses none.
            reader.read([item.decode("utf-8", "surrogateescape") for item in line.split()], number)
        except (BadPolicy, BadNote) as error:
            raise BadPolicy(f"line {number}: {error}") from None
    return reader.finish(needs_log=needs_log)


class _Reader:
    """What was read so far."""

    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}
        self._witnesses: dict[str, Witness] = {}
        self._groups: dict[str, Group] = {}
        self._ranges: dict[str, tuple[int, int, int | None]] = {}
        self._quorum: str | None = None
        self._members: set[str] = set()

    def read(self, items: list[str], number: int) -> None:
        if not items:
            return
        if items[0].startswith("#"):
            comment = [item for item in (items[0][1:], *items[1:]) if item]
            if comment[:1] == [RANGE]:
                self._read_range(comment[1:], number)
            return
        match items:
            case ["log", vkey]:
                self._add_log(vkey, None)
            case ["log", vkey, url]:
                self._add_log(vkey, url)
            case ["witness", name, vkey]:
                self._add_witness(name, vkey, None)
            case ["witness", name, vkey, url]:
                self._add_witness(name, vkey, url)
            case ["group", name, threshold, *members] if members:
                self._add_group(name, threshold, members)
            case ["quorum", name]:
                self._set_quorum(name)
            case [("log" | "witness" | "group" | "quorum") as word, *_]:
                raise BadPolicy(f"a {word} line has other items than these {len(items)}")
            case _:
                raise BadPolicy(f"{_shown(items[0])} is no word that begins a line")

    def _add_log(self, vkey: str, url: str | None) -> None:
        key = VerifierKey.parse(vkey)
        if key.kind != ED25519:
            raise BadPolicy(f"a log's key has type 0x01, and this has 0x{key.kind:02x}")
        self._check_key(key)
        _check_count(self._logs, "logs")
        self._logs[f"{key.name}+{key.hex_id}"] = Log(key, url)

    def _add_witness(self, name: str, vkey: str, url: str | None) -> None:
        self._check_new(name)
        key = VerifierKey.parse(vkey)
        if key.kind != COSIGNATURE:
            raise BadPolicy(f"a witness's key has type 0x04, and this has 0x{key.kind:02x}")
        self._check_key(key)
        _check_count(self._witnesses, "witnesses")
        self._witnesses[name] = Witness(name, key, url)

    def _check_key(self, key: VerifierKey) -> None:
        if not is_good_public_key(key.public):
            raise BadPolicy("not a public key that can sign")
        earlier = [log.key for log in self._logs.values()]
        earlier += [witness.key for witness in self._witnesses.values()]
        if any(other.public == key.public for other in earlier):
            raise BadPolicy("the same public key stands on an earlier line")

    def _add_group(self, name: str, threshold: str, members: list[str]) -> None:
        self._check_new(name)
        for member in members:
            if member not in self._witnesses and member not in self._groups:
                raise BadPolicy(f"no earlier line defines {_shown(member)}")
            if member in self._members:
                raise BadPolicy(f"{_shown(member)} is a member already")
            self._members.add(member)
        match threshold:
            case "any":
                count = 1
            case "all":
                count = len(members)
            case _ if _THRESHOLD.fullmatch(threshold) and int(threshold) <= len(members):
                count = int(threshold)
            case _:
                raise BadPolicy(f"a threshold is any, all, or a number from 1 to {len(members)}")
        _check_count(self._groups, "groups")
        self._groups[name] = Group(name, count, tuple(members))

    def _check_new(self, name: str) -> None:
        if name == NONE:
            raise BadPolicy(f"{NONE} has a meaning of its own and cannot be defined")
        if name in self._witnesses or name in self._groups:
            raise BadPolicy(f"{_shown(name)} is defined already")

    def _set_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise BadPolicy("a second quorum")
        if name != NONE and name not in self._witnesses and name not in self._groups:
            raise BadPolicy(f"no earlier line defines {_shown(name)}")
        self._quorum = name

    def _read_range(self, items: list[str], number: int) -> None:
        if len(items) != 3:
            raise BadPolicy(f"{RANGE} has a key, a first size and a last size")
        key, first_text, last_text = items
        first = parse_decimal(first_text)
        last = None if last_text == "-" else parse_decimal(last_text)
        if last is not None and last < first:
            raise BadPolicy(f"a range from {first} to {last}")
        if key in self._ranges:
            raise BadPolicy("a second range of this key")
        self._ranges[key] = (number, first, last)

    def finish(self, *, needs_log: bool) -> Policy:
        for key, (number, first, last) in self._ranges.items():
            if key not in self._logs:
                raise BadPolicy(f"line {number}: no log line has the key {_shown(key)}")
            log = self._logs[key]
            self._logs[key] = Log(log.key, log.url, first, last)
        if self._quorum is None:
            raise BadPolicy("the policy has no quorum line")
        if needs_log and not self._logs:
            raise BadPolicy("the policy names no log, so it would trust nothing")
        return Policy(
            tuple(self._logs.values()),
            tuple(self._witnesses.values()),
            tuple(self._groups.values()),
            self._quorum,
        )


def _check_count(parts: dict[str, Log] | dict[str, Witness] | dict[str, Group], what: str) -> None:
    if len(parts) >= PART_COUNT_MAX:
        raise BadPolicy(f"more than {PART_COUNT_MAX} {what}")


def _shown(text: str) -> str:
    """A name as an error may show it: quoted, cut, and ASCII."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")
