"""What a process did to its files, and what a power loss could have left of it.

``shim.c`` writes the log. ``Disk`` follows it and keeps apart what is durable and what is not: data
by the syncs of its
file, names by the syncs of their directory. ``Disk.image`` then builds what a disk may hold after a
cut: all that is
durable, and of the rest whatever it is told, in halves too, at the granularity of sectors.

Nothing is taken for durable that POSIX does not promise: a synced file whose directory was not
synced may be gone.
Changes of names persist in their order, as on every file system with a journal.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

SHIM_SOURCE: Final = Path(__file__).with_name("shim.c")
SECTOR_BYTES: Final = 512
_MAGIC: Final = 0x53594E43
_HEADER: Final = struct.Struct("<IHHQQQQQQ")


class Kind(IntEnum):
    """What a record tells; the numbers are those of shim.c."""

    OPENED = 1
    WRITTEN = 2
    RESIZED = 3
    SYNCED = 4
    WRITE_SYNCED = 5
    RENAMED = 6
    UNLINKED = 7
    MADE_DIRECTORY = 8
    REMOVED_DIRECTORY = 9
    SENT = 10
    UNSUPPORTED = 11


class Flag(IntFlag):
    """Flags of a record; the numbers are those of shim.c."""

    NEW = 1
    TRUNCATED = 2
    ZEROS = 4
    SYNCED_WRITE = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log; ``sequence`` and ``begun`` count over all processes of the log."""

    kind: Kind
    flags: Flag
    sequence: int
    file: int
    offset: int
    size: int
    begun: int
    payload: bytes

    @property
    def path(self) -> str:
        """The path of a record that has one."""
        return self.payload.decode()


def compile_shim(directory: Path) -> Path:
    """Compile the recorder with the system's C compiler and return the library's path."""
    library = directory / "shim.so"
    command = [os.environ.get("CC", "cc"), "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, SHIM_SOURCE, "-ldl", "-lpthread"], check=True)
    return library


def recorder_environment(library: Path, prefix: Path, log: Path) -> dict[str, str]:
    """Return the environment variables that make a process record itself."""
    return {
        "LD_PRELOAD": str(library),
        "CRASH_RECORD_PREFIX": str(prefix.resolve()),
        "CRASH_RECORD_LOG": str(log),
    }


def read_log(log: Path) -> Iterator[Record]:
    """Yield the records; raise ValueError for a log that is not whole or shows what cannot be
    replayed.

    Several processes may have written the log, one after the other.
    """
    with open(log, "rb") as opened:
        before, last = 0, 0
        while len(header := opened.read(_HEADER.size)) == _HEADER.size:
            magic, kind, flags, sequence, file, offset, size, begun, payload_size = _HEADER.unpack(
                header
            )
            if magic != _MAGIC:
                raise ValueError(f"{log}: no record where one should begin")
            payload = opened.read(payload_size)
            if len(payload) != payload_size:
                # The process was killed while it wrote its last record, so what it tells had not
                # happened.
                return
            if kind == Kind.UNSUPPORTED:
                raise ValueError(f"the process did what the recorder cannot replay: {payload!r}")
            if sequence == 1:
                before = last
            last = before + sequence
            yield Record(Kind(kind), Flag(flags), last, file, offset, size, before + begun, payload)


# ----------------------------------------------------------------------------------------------
# The disk
# ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Change:
    """A write (``data``, or ``size`` zeros), or a new size, of a file's bytes."""

    sequence: int
    offset: int
    size: int
    data: bytes | None
    resize: bool = False
    durable: bool = False

    def apply(self, content: bytearray, sectors: list[bool] | None = None) -> None:
        """Bring a file's content up to this change, or only to some of its sectors."""
        if self.resize:
            if self.offset <= len(content):
                del content[self.offset :]
            else:
                content.extend(bytes(self.offset - len(content)))
            return
        if sectors is None:
            self._copy(content, self.offset, self.offset + self.size)
            return
        first = self.offset // SECTOR_BYTES
        for place, kept in enumerate(sectors):
            if kept:
                start = (first + place) * SECTOR_BYTES
                end = min(start + SECTOR_BYTES, self.offset + self.size)
                self._copy(content, max(start, self.offset), end)

    def _copy(self, content: bytearray, start: int, end: int) -> None:
        if end > len(content):
            content.extend(bytes(end - len(content)))
        if self.data is None:
            content[start:end] = bytes(end - start)
        else:
            content[start:end] = self.data[start - self.offset : end - self.offset]

    @property
    def sector_count(self) -> int:
        """Sectors that the change touches."""
        if self.resize or not self.size:
            return 1
        return (self.offset + self.size - 1) // SECTOR_BYTES - self.offset // SECTOR_BYTES + 1


@dataclass(slots=True)
class File:
    """The bytes of a file: those that are durable, and the changes since, in order."""

    content: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def fold(self) -> None:
        """Take durable changes into the content, as far as no other is older."""
        count = 0
        for change in self.changes:
            if not change.durable:
                break
            change.apply(self.content)
            count += 1
        del self.changes[:count]


@dataclass(slots=True)
class Renaming:
    """A change of names, of one kind."""

    sequence: int
    kind: Kind
    path: str
    file: int = 0
    new_path: str = ""
    durable: bool = False

    @property
    def directories(self) -> set[str]:
        """The directories whose sync makes it durable."""
        paths = {self.path, self.new_path} if self.kind == Kind.RENAMED else {self.path}
        return {os.path.dirname(path) for path in paths}

    def apply(self, names: dict[str, int | None]) -> None:
        """Change names, as far as what it needs is there."""
        if self.kind == Kind.RENAMED:
            if self.path in names and os.path.dirname(self.new_path) in names:
                below = self.path + "/"
                for path in [path for path in names if path == self.path or path.startswith(below)]:
                    names[self.new_path + path[len(self.path) :]] = names.pop(path)
        elif self.kind in (Kind.UNLINKED, Kind.REMOVED_DIRECTORY):
            names.pop(self.path, None)
        elif os.path.dirname(self.path) in names:
            names[self.path] = None if self.kind == Kind.MADE_DIRECTORY else self.file


Choice = tuple[int, ...]
"""What becomes of one change that is not durable: () lost, (1,) kept, else the sectors kept as bits
of 0 and 1."""


@dataclass(frozen=True, slots=True)
class Image:
    """The files of a disk after a power loss; a path with None is a directory."""

    variant: str
    content: dict[str, bytes | None]

    def write(self, directory: Path) -> None:
        """Make the files below an absent directory."""
        directory.mkdir(parents=True)
        for path, data in sorted(self.content.items()):
            target = directory / path
            if data is None:
                target.mkdir()
            else:
                target.write_bytes(data)


class Disk:
    """Follows the records of a log over the files below ``prefix``, which was empty when the
    recording began."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = str(prefix.resolve())
        self._names: dict[str, int | None] = {self.prefix: None}
        self._renamings: list[Renaming] = []
        self._files: dict[int, File] = {}
        self._paths: dict[int, str] = {}

    def follow(self, record: Record) -> None:
        """Take one record."""
        match record.kind:
            case Kind.OPENED:
                self._paths[record.file] = record.path
                if Flag.NEW in record.flags:
                    self._files[record.file] = File()
                    self._renamings.append(
                        Renaming(record.sequence, Kind.OPENED, record.path, record.file)
                    )
                elif Flag.TRUNCATED in record.flags:
                    self._change(record, Change(record.sequence, 0, 0, None, resize=True))
            case Kind.WRITTEN:
                data = None if Flag.ZEROS in record.flags else record.payload
                self._change(record, Change(record.sequence, record.offset, record.size, data))
            case Kind.RESIZED:
                change = Change(record.sequence, record.offset, 0, None, resize=True)
                self._change(record, change)
            case Kind.WRITE_SYNCED:
                file = self._files[record.file]
                for change in file.changes:
                    if change.sequence == record.begun:
                        change.durable = True
                file.fold()
            case Kind.SYNCED:
                self._sync(record)
            case Kind.RENAMED:
                old, new = record.path.split("\0")
                self._renamings.append(Renaming(record.sequence, Kind.RENAMED, old, new_path=new))
            case Kind.UNLINKED | Kind.MADE_DIRECTORY | Kind.REMOVED_DIRECTORY:
                self._renamings.append(Renaming(record.sequence, record.kind, record.path))
            case _:
                pass

    def _change(self, record: Record, change: Change) -> None:
        self._files[record.file].changes.append(change)

    def _sync(self, record: Record) -> None:
        file = self._files.get(record.file)
        if file is not None:
            for change in file.changes:
                change.durable |= change.sequence <= record.begun
            file.fold()
            return
        directory = self._paths[record.file]
        for renaming in self._renamings:
            if renaming.sequence <= record.begun and directory in renaming.directories:
                renaming.durable = True
        count = 0
        for renaming in self._renamings:
            if not renaming.durable:
                break
            renaming.apply(self._names)
            count += 1
        del self._renamings[:count]

    # ---- images ----

    def pending(self) -> list[tuple[int, Change]]:
        """The changes that are not durable, in the order in which they were made, each with its
        file."""
        found = [
            (number, change)
            for number, file in self._files.items()
            for change in file.changes
            if not change.durable
        ]
        return sorted(found, key=lambda item: item[1].sequence)

    def images(self, rng: random.Random, random_count: int) -> Iterator[Image]:
        """Yield what the disk may hold: all synced and no more, all written, the last write alone,
        torn ones, random ones."""
        pending = self.pending()
        yield self.image("synced", {}, 0)
        if not pending and not any(not one.durable for one in self._renamings):
            return
        last = pending[-1][1] if pending else None
        whole = {change.sequence: (1,) for _, change in pending}
        names = sum(not one.durable for one in self._renamings)
        yield self.image("written", whole, names)
        if last is not None:
            if len(pending) > 1:
                yield self.image("last alone", {last.sequence: (1,)}, names)
                yield self.image("all but the last", {**whole, last.sequence: ()}, names)
            if last.sector_count > 1:
                yield self.image("last torn", {**whole, last.sequence: _torn(rng, last)}, names)
        for _ in range(random_count):
            chance = rng.choice((0.1, 0.5, 0.9))
            choices: dict[int, Choice] = {}
            for _, change in pending:
                if rng.random() < chance:
                    tear = change.sector_count > 1 and rng.random() < 0.3
                    choices[change.sequence] = _torn(rng, change) if tear else (1,)
            yield self.image("random", choices, rng.randint(0, names))

    def image(self, variant: str, choices: dict[int, Choice], renaming_count: int) -> Image:
        """Return the disk with the chosen changes, and the first so many of the changes of names,
        beside the durable ones."""
        names = dict(self._names)
        for renaming in self._renamings:
            if not renaming.durable:
                if renaming_count == 0:
                    continue
                renaming_count -= 1
            renaming.apply(names)
        content: dict[str, bytes | None] = {}
        for path, file in names.items():
            if path != self.prefix:
                content[os.path.relpath(path, self.prefix)] = (
                    None if file is None else self._bytes(self._files[file], choices)
                )
        return Image(variant, content)

    @staticmethod
    def _bytes(file: File, choices: dict[int, Choice]) -> bytes:
        content = bytearray(file.content)
        for change in file.changes:
            choice = (1,) if change.durable else choices.get(change.sequence, ())
            if len(choice) == 1:
                change.apply(content)
            elif choice:
                change.apply(content, [bool(bit) for bit in choice])
        return bytes(content)


def _torn(rng: random.Random, change: Change) -> Choice:
    """Some sectors of a write: its first part, its last part, or any of them."""
    count = change.sector_count
    match rng.randrange(3):
        case 0:
            cut = rng.randint(1, count - 1)
            return (1,) * cut + (0,) * (count - cut)
        case 1:
            cut = rng.randint(1, count - 1)
            return (0,) * cut + (1,) * (count - cut)
        case _:
            return tuple(rng.randint(0, 1) for _ in range(count))
