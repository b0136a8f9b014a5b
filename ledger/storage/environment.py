"""LMDB environments, opened with every option written out, and LMDB's errors as ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from ledger.errors import DataDamaged, DiskFailed, DiskFull
from ledger.storage import pages

MAP_BYTES: Final = 1 << 40
"""Address space of an environment, fixed for ever: a map cannot be resized under readers. It costs
nothing until used."""

READERS_MAX: Final = 254
LEAVES_MAX: Final = 1 << 17
"""Leaf pages up to which a tree is checked whole when it is opened: 512 MiB."""

_LOCK_BYTES: Final = (READERS_MAX + 2) * 64
"""LMDB's lock file: a cache line for each reader, and two before them."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DAMAGED: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.BadValsizeError,
)


def open_environment(
    path: Path, *, trees: tuple[str, ...], newest_first: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """Check and open the environment in a directory, made when it is absent; return it with its
    named trees.

    The caller holds the lock of the data directory, so no other process has the environment open.
    Opening one that is there writes nothing, so it works on a full disk. Raises DataDamaged and
    DiskFailed.
    """
    file = path / "data.mdb"
    try:
        path.mkdir(mode=0o750, exist_ok=True)
        if file.exists() and file.stat().st_size:
            pages.check_file(
                file, map_size=MAP_BYTES, newest_first=newest_first, leaves_max=LEAVES_MAX
            )
        _write_lock_file(path / "lock.mdb")
    except OSError as error:
        raise disk_error(error, path) from error
    new = not file.exists()
    with translated(path):
        environment = lmdb.open(
            str(path),
            map_size=MAP_BYTES,
            subdir=True,
            readonly=False,
            metasync=True,
            sync=True,
            map_async=False,
            mode=0o640,
            create=True,
            readahead=True,
            writemap=False,
            meminit=True,
            max_readers=READERS_MAX,
            max_dbs=len(trees),
            max_spare_txns=1,
            lock=True,
            lib_version=0,
        )
        try:
            environment.reader_check()
            handles = {}
            for name in trees:
                handles[name] = _open_tree(environment, name)
            if new:
                # LMDB syncs what is in its file, but not the file's name.
                sync_directory(path)
        except OSError as error:
            environment.close()
            raise disk_error(error, path) from error
        except BaseException:
            environment.close()
            raise
    return environment, handles


def _open_tree(environment: Any, name: str) -> Any:
    try:
        return environment.open_db(name.encode(), create=False)
    except lmdb.NotFoundError:
        return environment.open_db(name.encode(), create=True)


def _write_lock_file(path: Path) -> None:
    """Give LMDB's lock file its blocks: it is written through a map, where a full disk would kill
    the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        status = os.fstat(descriptor)
        if status.st_size < _LOCK_BYTES or status.st_blocks * 512 < _LOCK_BYTES:
            os.pwrite(descriptor, bytes(_LOCK_BYTES), 0)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(error: OSError, path: Path) -> DiskFailed:
    """Return the exception for a failed call of the operating system."""
    what = f"{path}: {error.strerror or error}"
    return DiskFull(what) if error.errno in _FULL else DiskFailed(what)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into DataDamaged, DiskFull and DiskFailed, with the path in the
    message."""
    try:
        yield
    except lmdb.Error as error:
        if isinstance(error, _DAMAGED):
            raise DataDamaged(f"{path}: {error}") from error
        code = getattr(error, "code", 0)
        full = code in _FULL or isinstance(error, lmdb.DiskError | lmdb.MapFullError)
        raise (DiskFull if full else DiskFailed)(f"{path}: {error}") from error
