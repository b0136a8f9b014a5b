"""A look into a data directory that another process may be serving: read-only, beside LMDB's
writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from ledger.errors import ConfigurationError, DirectoryInUse
from ledger.storage.directory import LOCK_FILE, Directory, read_format
from ledger.storage.environment import MAP_BYTES, READERS_MAX, translated
from ledger.storage.journal import LmdbJournal, LmdbReader


@contextmanager
def live_reader(directory: Path) -> Iterator[LmdbReader]:
    """Yield a view of the durable blocks of a data directory, whether a server has it open or not.

    Where no server has it, the files are checked first as a server would check them. Raises
    ConfigurationError when it is no data directory, DataDamaged, FormatTooNew, DiskFailed.
    """
    try:
        held = Directory(directory)
    except DirectoryInUse:
        with _beside_the_writer(directory) as reader:
            yield reader
        return
    try:
        journal = LmdbJournal(held.part("journal"))
        try:
            with journal.reader() as reader:
                yield reader
        finally:
            journal.close()
    finally:
        held.close()


@contextmanager
def _beside_the_writer(directory: Path) -> Iterator[LmdbReader]:
    """Read the journal that another process writes: LMDB keeps what a reader sees for as long as it
    looks.
    """
    read_format(directory)
    path = directory / "journal"
    if not (path / "data.mdb").exists():
        raise ConfigurationError(
            f"{directory}: the server that has it is still starting; try again"
        )
    with translated(path):
        environment = lmdb.open(
            str(path),
            map_size=MAP_BYTES,
            subdir=True,
            readonly=True,
            create=False,
            readahead=True,
            max_readers=READERS_MAX,
            max_dbs=2,
            lock=True,
            lib_version=0,
        )
    try:
        with translated(path):
            blocks = environment.open_db(b"blocks", create=False)
            metadata = environment.open_db(b"metadata", create=False)
            reader = LmdbReader(environment.begin(write=False, buffers=True), blocks, metadata)
        try:
            yield reader
        finally:
            reader.end()
    finally:
        environment.close()


def owner(directory: Path) -> int | None:
    """Return the id of the process that has a data directory, None when nobody has it."""
    try:
        Directory(directory).close()
    except DirectoryInUse:
        text = (directory / LOCK_FILE).read_text("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    return None
