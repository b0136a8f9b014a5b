"""The data directory: who it belongs to, which format it has, and who may use it.

::

    DIR/format.json     format version, the ledger's 16 random bytes, a checksum
    DIR/lock            locked by the one process that uses the directory; holds its process id
    DIR/journal/        LMDB environment: the truth
    DIR/state/          LMDB environment: the snapshot, can be rebuilt from the journal
    DIR/ids/            LMDB environment: the index of ids, can be rebuilt from the journal
    DIR/roots/          LMDB environment: the kept state roots, can be rebuilt from the journal
    DIR/erased.new/     an erasure at work, or one that was cut off: removed by the next start
    DIR/erased/         an erasure that is decided: its parts replace those above, then it goes
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Final

from blake3 import blake3

from ledger import layout
from ledger.errors import ConfigurationError, DataDamaged, DirectoryInUse, FormatTooNew
from ledger.storage.environment import disk_error, open_environment, sync_directory
from ledger.storage.store import Hook, no_hook

FORMAT_FILE: Final = "format.json"
LOCK_FILE: Final = "lock"
JOURNAL: Final = "journal"
JOURNAL_TREES: Final = ("blocks", "metadata")
PARTS: Final = (JOURNAL, "state", "ids", "roots")
ERASING: Final = "erased.new"
ERASED: Final = "erased"
_LOCK_BYTES: Final = 32
_FORMAT_BYTES_MAX: Final = 4096


def _checksum(format_version: int, instance: bytes) -> str:
    return blake3(b"%d %s" % (format_version, instance.hex().encode())).hexdigest(length=16)


def create(path: Path, *, instance: bytes | None = None) -> bytes:
    """Make an empty data directory and return its instance, 16 random bytes unless they are given.

    The directory may exist when it is empty, or when an earlier call was cut off. The journal, with
    its empty trees, gets its name last, when all else is durable: a directory that has one is
    complete, and a missing journal is never taken for an empty one. Raises ConfigurationError when
    there is something else in the way.
    """
    if instance is None:
        instance = os.urandom(16)
    new_journal = path / (JOURNAL + ".new")
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        _check_free(path)
        shutil.rmtree(new_journal, ignore_errors=True)
        for name in PARTS:
            if name != JOURNAL:
                (path / name).mkdir(mode=0o750, exist_ok=True)
        _write_new(path / LOCK_FILE, b"\n".rjust(_LOCK_BYTES))
        text = json.dumps(
            {
                "format": layout.FORMAT_VERSION,
                "instance": instance.hex(),
                "checksum": _checksum(layout.FORMAT_VERSION, instance),
            },
            indent=1,
        )
        _write_new(path / (FORMAT_FILE + ".new"), text.encode() + b"\n")
        os.rename(path / (FORMAT_FILE + ".new"), path / FORMAT_FILE)
        environment, _ = open_environment(new_journal, trees=JOURNAL_TREES)
        environment.close()
        sync_directory(path)
        os.rename(new_journal, path / JOURNAL)
        sync_directory(path)
        sync_directory(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    return instance


def _check_free(path: Path) -> None:
    """Raise ConfigurationError unless all that is there was left by a call that was cut off."""
    names = sorted(os.listdir(path))
    if FORMAT_FILE in names and JOURNAL in names:
        raise ConfigurationError(f"{path} is a data directory already")
    left_over = {LOCK_FILE, FORMAT_FILE, FORMAT_FILE + ".new", JOURNAL + ".new", *PARTS}
    for name in names:
        if name not in left_over or (name in PARTS and os.listdir(path / name)):
            raise ConfigurationError(f"{path} is not empty: it has '{name}'")
    if JOURNAL in names:
        (path / JOURNAL).rmdir()


def _write_new(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_format(path: Path) -> bytes:
    """Return the instance of a data directory.

    Raises ConfigurationError when it is none, FormatTooNew when a newer ledger wrote it,
    DataDamaged for a damaged file.
    """
    file = path / FORMAT_FILE
    advice = "restore the directory from a backup"
    try:
        with open(file, "rb") as opened:
            data = opened.read(_FORMAT_BYTES_MAX)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is not a data directory of the ledger: make one with 'sanyuan init {path}'"
        ) from error
    except PermissionError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise disk_error(error, file) from error
    try:
        content = json.loads(data)
        version, instance = content["format"], bytes.fromhex(content["instance"])
        checksum = content["checksum"]
        if type(version) is not int or len(instance) != 16:
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise DataDamaged(f"{file}: not a format file: {advice}") from error
    if checksum != _checksum(version, instance):
        raise DataDamaged(f"{file}: its checksum is not that of its content: {advice}")
    if version > layout.FORMAT_VERSION:
        raise FormatTooNew(
            f"{path} has format {version}, and this program knows formats up to"
            f" {layout.FORMAT_VERSION}: use a newer version of the ledger"
        )
    # The parts of an erasure that is decided take their places when the directory is locked.
    places = (path / JOURNAL / "data.mdb", path / ERASED / JOURNAL / "data.mdb")
    if not any(place.exists() for place in places):
        if any((path / name / "data.mdb").exists() for name in PARTS):
            raise DataDamaged(f"{path / JOURNAL}: data.mdb, the journal, is missing: {advice}")
        raise ConfigurationError(
            f"{path} is not complete, its making was cut off: repeat 'sanyuan init {path}'"
        )
    return instance


def begin_erasure(path: Path, instance: bytes) -> Path:
    """Return a new, empty data directory within this one, in which everything is written anew."""
    new = path / ERASING
    try:
        if new.exists():
            shutil.rmtree(new)
    except OSError as error:
        raise disk_error(error, new) from error
    create(new, instance=instance)
    return new


def abandon_erasure(path: Path) -> None:
    """Give back the room of an erasure that failed; what cannot be removed now, the next start
    removes."""
    shutil.rmtree(path / ERASING, ignore_errors=True)


def commit_erasure(path: Path) -> None:
    """Decide that what was written anew replaces what there is: from here on every start carries
    it out."""
    try:
        for folder in (path / ERASING, *(path / ERASING / part for part in PARTS)):
            sync_directory(folder)
        os.rename(path / ERASING, path / ERASED)
        sync_directory(path)
    except OSError as error:
        raise disk_error(error, path) from error


def _finish_erasure(path: Path, hook: Hook) -> None:
    """Carry out an erasure that was decided, and remove one that was not. May be cut off anywhere
    and done again."""
    if (path / ERASING).exists():
        shutil.rmtree(path / ERASING)
    if not (path / ERASED).exists():
        return
    for part in PARTS:
        if (path / ERASED / part).exists():
            hook(f"erase {part}", "before")
            if (path / part).exists():
                shutil.rmtree(path / part)
            hook(f"erase {part}", "removed")
            os.rename(path / ERASED / part, path / part)
            sync_directory(path)
            hook(f"erase {part}", "after")
    shutil.rmtree(path / ERASED)
    sync_directory(path)
    hook("erase", "after")


class Directory:
    """A data directory that this process has for itself, until ``close``.

    Raises DirectoryInUse, ConfigurationError (no data directory, or not writable), DataDamaged,
    FormatTooNew.
    """

    def __init__(self, path: Path, *, hook: Hook = no_hook) -> None:
        self.path = path
        self.instance = read_format(path)
        try:
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise ConfigurationError(
                    f"{path} cannot be written ({error.strerror}): the ledger needs a directory in"
                    " which it may write"
                ) from error
            raise disk_error(error, path) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, _LOCK_BYTES, 0).strip().decode("ascii", "replace")
            os.close(self._lock)
            raise DirectoryInUse(
                f"{path} is in use by process {owner or 'unknown'}: stop it, or use another"
                " directory"
            ) from error
        try:
            # In place and never longer, so that it needs no new block on a full disk. It only
            # informs.
            os.pwrite(self._lock, (b"%d\n" % os.getpid()).rjust(_LOCK_BYTES), 0)
            _finish_erasure(path, hook)
            unwritable = [name for name in PARTS if not self._writable(path / name)]
        except OSError as error:
            os.close(self._lock)
            raise disk_error(error, path) from error
        except BaseException:
            os.close(self._lock)
            raise
        if unwritable:
            os.close(self._lock)
            raise ConfigurationError(
                f"{path / unwritable[0]} cannot be written: the ledger needs a directory in which"
                " it may write"
            )

    @staticmethod
    def _writable(part: Path) -> bool:
        files = [part / name for name in ("data.mdb", "lock.mdb") if (part / name).exists()]
        return not part.exists() or (
            os.access(part, os.W_OK | os.X_OK) and all(os.access(file, os.W_OK) for file in files)
        )

    def part(self, name: str) -> Path:
        """Return the directory of one of the environments."""
        return self.path / name

    def close(self) -> None:
        """Give the directory up; closing twice is allowed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
