"""Backups: one file that holds every block of the journal, written while the ledger serves.

::

    SANYUANB                      8 bytes
    format u32, instance 16 bytes
    records: kind u8 (1 block, 2 metadata), key u64, size u32, the stored bytes
    end: kind u8 0, last block i64, size u32 of 0
    BLAKE3 of everything before   32 bytes

All integers are little-endian. A block comes before its metadata. Snapshot and index of ids are not
in it: whoever opens the restored directory has them rebuilt from the journal.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from ledger import layout
from ledger.errors import ConfigurationError, DataDamaged, FormatTooNew
from ledger.storage import directory as data_directory
from ledger.storage.environment import disk_error, sync_directory
from ledger.storage.journal import LmdbJournal
from ledger.storage.store import Progress, Reader, no_progress

MAGIC: Final = b"SANYUANB"
_HEAD: Final = struct.Struct("<8sI16s")
_RECORD: Final = struct.Struct("<BqI")
_END, _BLOCK, _METADATA = 0, 1, 2
_DIGEST_BYTES: Final = 32
_VALUE_BYTES_MAX: Final = 1 << 30


class _Checked:
    """A file whose bytes are hashed as they pass."""

    def __init__(self, file: BinaryIO, name: Path) -> None:
        self.file = file
        self.name = name
        self.hasher = blake3()

    def write(self, data: bytes) -> None:
        self.hasher.update(data)
        self.file.write(data)

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise DataDamaged(f"{self.name}: the backup is cut short")
        self.hasher.update(data)
        return data


def write(file: Path, instance: bytes, reader: Reader, progress: Progress = no_progress) -> int:
    """Write every block that the reader sees to a new file; return the number of the last one.

    The file appears under its name only when it is whole and durable. Raises ConfigurationError
    when it exists, DataDamaged for a damaged block, DiskFailed or DiskFull.
    """
    if file.exists():
        raise ConfigurationError(f"{file} exists already")
    unfinished = file.with_name(file.name + ".unfinished")
    try:
        with open(unfinished, "wb") as opened:
            out = _Checked(opened, file)
            out.write(_HEAD.pack(MAGIC, layout.FORMAT_VERSION, instance))
            last = reader.last_block
            for number in range(last + 1):
                progress("backup", number, last + 1)
                view = reader.block(number)
                view.check()
                value = reader.value(number)
                out.write(_RECORD.pack(_BLOCK, number, len(value)) + value)
                for index in view.metadata_indexes:
                    position = layout.position(number, int(index))
                    data = reader.metadata(position)
                    if data is None:
                        raise DataDamaged(
                            f"block {number}: the metadata of entry {index} is missing"
                        )
                    out.write(_RECORD.pack(_METADATA, position, len(data)) + data)
            progress("backup", last + 1, last + 1)
            out.write(_RECORD.pack(_END, last, 0))
            opened.write(out.hasher.digest())
            opened.flush()
            os.fsync(opened.fileno())
        os.rename(unfinished, file)
        sync_directory(file.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise disk_error(error, file) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return last


def restore(file: Path, directory: Path, progress: Progress = no_progress) -> int:
    """Make a data directory from a backup; return the number of its last block.

    The whole file is checked as it is read, and the directory is complete only at the end. Raises
    ConfigurationError when the directory exists, DataDamaged for a damaged file, FormatTooNew for
    one of a newer ledger.
    """
    if directory.exists():
        raise ConfigurationError(f"{directory} exists already: a backup is restored to a new one")
    unfinished = directory.with_name(directory.name + ".unfinished")
    if unfinished.exists():
        raise ConfigurationError(f"{unfinished} is left from a restore that was cut off: remove it")
    try:
        with open(file, "rb") as opened:
            try:
                last = _restore_from(_Checked(opened, file), unfinished, progress)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        os.rename(unfinished, directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise disk_error(error, file) from error
    return last


def _restore_from(source: _Checked, directory: Path, progress: Progress) -> int:
    magic, version, instance = _HEAD.unpack(source.read(_HEAD.size))
    if magic != MAGIC:
        raise DataDamaged(f"{source.name}: not a backup of the ledger")
    if version > layout.FORMAT_VERSION:
        raise FormatTooNew(
            f"{source.name} has format {version}, and this program knows formats up to"
            f" {layout.FORMAT_VERSION}: use a newer version of the ledger"
        )
    size = os.fstat(source.file.fileno()).st_size
    data_directory.create(directory, instance=instance)
    journal = LmdbJournal(directory / "journal")
    try:
        number, value = -1, b""
        metadata: list[tuple[int, bytes]] = []
        while True:
            progress("restore", source.file.tell(), size)
            kind, key, length = _RECORD.unpack(source.read(_RECORD.size))
            if kind == _METADATA and number >= 0 and key >> layout.INDEX_BITS == number:
                metadata.append((key, source.read(min(length, _VALUE_BYTES_MAX))))
                continue
            if number >= 0:
                journal.append(number, value, metadata)
            if kind == _END:
                break
            if kind != _BLOCK or key != number + 1 or length > _VALUE_BYTES_MAX:
                raise DataDamaged(f"{source.name}: the backup is damaged after block {number}")
            number, value, metadata = key, source.read(length), []
        digest = source.hasher.digest()
        if key != number or source.file.read(_DIGEST_BYTES + 1) != digest:
            raise DataDamaged(f"{source.name}: the backup does not have its checksum")
    finally:
        journal.close()
    return number
