"""The recorder and the builder of images, on an LMDB environment and files of their own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from tests.crash.recording import Disk, Kind, Record, compile_shim, read_log, recorder_environment

LMDB_CHILD = """
import lmdb, os, sys
path, sync = sys.argv[1], sys.argv[2] == "1"
os.mkdir(path)
e = lmdb.open(path, map_size=1 << 30, sync=sync, metasync=sync, writemap=False)
d = os.open(path, os.O_RDONLY | os.O_DIRECTORY); os.fsync(d)
d = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY); os.fsync(d)
import socket
a, b = socket.socketpair()
s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname())
for number in range(40):
    with e.begin(write=True) as t:
        for i in range(number % 7 + 1):
            t.put(b"%d" % (number * 7 % 13 + i), bytes([number + 1]) * (10 + 700 * (number % 5)))
        t.put(b"number", b"%d" % number)
    c.send(b"%d" % number)
"""

FILES_CHILD = """
import os, sys
path = sys.argv[1]
os.mkdir(path + "/made")
d = os.open(path + "/made/file", os.O_RDWR | os.O_CREAT, 0o600)
os.write(d, b"first")
os.writev(d, [b" and", b" second"])
os.fsync(d)
os.pwrite(d, b"SECOND", 10)
os.ftruncate(d, 100)
with open(path + "/new", "wb") as f: f.write(b"renamed")
os.rename(path + "/new", path + "/old")
d = os.open(path, os.O_RDONLY); os.fsync(d)
with open(path + "/gone", "wb") as f: f.write(b"gone")
os.unlink(path + "/gone")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


def record(shim: Path, directory: Path, program: str, *arguments: str) -> tuple[Path, list[Record]]:
    prefix, log = directory / "recorded", directory / "log"
    prefix.mkdir()
    environment = os.environ | recorder_environment(shim, prefix, log)
    arguments = tuple(one.replace("PREFIX", str(prefix)) for one in arguments)
    subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True)
    return prefix, list(read_log(log))


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def test_all_that_was_written_rebuilds_the_files(shim: Path, tmp_path: Path) -> None:
    prefix, records = record(shim, tmp_path, FILES_CHILD, "PREFIX")
    disk = Disk(prefix)
    for one in records:
        disk.follow(one)
    written = {image.variant: image for image in disk.images(random.Random(1), 0)}["written"]
    written.write(tmp_path / "image")
    assert files(tmp_path / "image") == files(prefix)
    assert files(prefix)["made/file"] == b"first and SECOND".ljust(100, b"\0")


def test_only_what_was_synced_is_certain(shim: Path, tmp_path: Path) -> None:
    prefix, records = record(shim, tmp_path, FILES_CHILD, "PREFIX")
    disk = Disk(prefix)
    seen: set[bytes | None] = set()
    for one in records:
        disk.follow(one)
        for image in disk.images(random.Random(1), 3):
            seen.add(image.content.get("made/file"))
            if image.content.get("old") is not None:
                assert image.content["old"] in (b"", b"renamed")
    synced = disk.image("synced", {}, 0).content
    # The file's bytes are synced, and the name of its directory, but not its own name.
    assert synced == {"made": None, "old": b""}
    assert {None, b"", b"first", b"first and second", b"first and SECOND"} <= seen


def recovered(image_directory: Path) -> int:
    """The last number that an LMDB environment holds, when all of its state is that of one moment;
    -1 when empty."""
    with lmdb.open(str(image_directory), map_size=1 << 30, readonly=True, lock=False) as opened:
        with opened.begin() as transaction:
            found = dict(transaction.cursor())
    if not found:
        return -1
    number = int(found[b"number"])
    expected: dict[bytes, bytes] = {b"number": b"%d" % number}
    for one in range(number + 1):
        for i in range(one % 7 + 1):
            expected[b"%d" % (one * 7 % 13 + i)] = bytes([one + 1]) * (10 + 700 * (one % 5))
    assert found == expected
    return number


@pytest.mark.parametrize("sync", [True, False])
def test_power_loss_under_plain_lmdb(shim: Path, tmp_path: Path, sync: bool) -> None:
    """LMDB keeps its promise on these images with its syncs, and breaks it on some without: the
    builder can tell."""
    prefix, records = record(shim, tmp_path, LMDB_CHILD, "PREFIX/env", str(int(sync)))
    assert any(one.kind == Kind.SYNCED for one in records)
    assert sum(one.kind == Kind.SENT for one in records) == 40
    disk, rng = Disk(prefix), random.Random(2)
    acknowledged, images, broken, made = -1, 0, 0, False
    for one in records:
        disk.follow(one)
        if one.kind == Kind.SENT:
            acknowledged = int(one.payload)
        # The environment itself is made without a promise.
        made |= one.kind == Kind.SENT
        if not made:
            continue
        for image in disk.images(rng, 1):
            images += 1
            directory = tmp_path / f"image{images}"
            image.write(directory)
            try:
                number = recovered(directory / "env")
                assert acknowledged <= number <= acknowledged + 1
            except (AssertionError, lmdb.Error, KeyError, ValueError):
                broken += 1
                if sync:
                    raise
        if broken > 5:
            break
    assert images > 300 or broken
    assert bool(broken) == (not sync)
