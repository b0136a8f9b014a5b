"""Small files that appear whole or not at all: written under another name, then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ledger.errors import DiskFailed, DiskFull

Hook = Callable[[str, str], None]
"""hook(step, "before" | "after"), called around each step that others can see."""

NEW: Final = ".new"
"""Ending of a file that is being written."""


def no_hook(step: str, when: str) -> None:
    """Do nothing: the hook of everything that is not under test."""


def failed(error: OSError, path: Path) -> DiskFailed:
    """Return what to raise for a failed read or write."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else DiskFailed
    return kind(f"{path}: {error.strerror or error}")


def write_file(path: Path, data: bytes, *, sync: bool, mode: int = 0o640) -> None:
    """Let a file have exactly these bytes, in one step; durable on return when ``sync``.

    Raises DiskFull and DiskFailed; then the file is as it was before.
    """
    new = path.with_name(path.name + NEW)
    try:
        try:
            descriptor = _create(new, mode)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _create(new, mode)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
        if sync:
            sync_directory(path.parent)
    except OSError as error:
        raise failed(error, path) from error


def _create(path: Path, mode: int) -> int:
    # The mode of a file left over from a cut-off write would stay, so it begins anew.
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, mode)
    return descriptor


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
