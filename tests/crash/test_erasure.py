"""An erasure that is cut off anywhere: afterwards the account is there whole, or gone from every
file, and doing it again finishes it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.storage import directory as data_directory
from ledger.storage.directory import Directory
from ledger.storage.erasure import erase
from ledger.storage.live import live_reader
from ledger.storage.verify import verify
from tests.crash.driver import CONFIG
from tests.crash.test_fault_matrix import Cut, Cutter
from tests.unit.test_erasure import ANNA, annas_secrets, blocks, found_in, opened

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
from pathlib import Path
from ledger.storage.erasure import erase
from tests.crash.driver import CONFIG
calls = []
def hook(step, when):
    calls.append((step, when))
    if len(calls) - 1 == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
erase(Path(sys.argv[1]), CONFIG, [int(sys.argv[3])], hook=hook)
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("erasure") / "data"
    data_directory.create(path, instance=bytes(range(16)))
    with opened(path) as bank:
        bank.run(blocks())
    return path


@pytest.fixture(scope="module")
def needles(ledger: Path) -> list[bytes]:
    return annas_secrets(ledger)


@pytest.fixture(scope="module")
def places(ledger: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every step of an erasure at which it may be cut off."""
    path = tmp_path_factory.mktemp("whole") / "data"
    shutil.copytree(ledger, path)
    cutter = Cutter()
    erase(path, CONFIG, [ANNA], hook=cutter)
    return cutter.calls


def check(path: Path, needles: list[bytes], *, decided: bool) -> None:
    """Check a directory in which an erasure was cut off, before or after it was decided."""
    with live_reader(path) as reader:  # whoever opens it first puts it in order
        assert reader.last_block == len(blocks()) - 1
    assert not (path / data_directory.ERASING).exists()
    assert not (path / data_directory.ERASED).exists()
    assert bool(found_in(path, needles)) != decided
    with opened(path) as bank:
        assert (bank.core.slot_of(ANNA) < 0) == decided
    if not decided:
        assert erase(path, CONFIG, [ANNA]).refusals == []
    assert found_in(path, needles) == []
    verdict = verify(path, CONFIG)
    assert verdict.clean, verdict.differences


def test_every_step_is_tried(places: list[tuple[str, str]]) -> None:
    assert ("append", "before") in places
    assert ("erase commit", "before") in places
    for part in data_directory.PARTS:
        assert (f"erase {part}", "removed") in places
    assert places[-1] == ("erase", "after")


def test_an_erasure_that_fails_at_any_step(
    ledger: Path, needles: list[bytes], places: list[tuple[str, str]], tmp_path: Path
) -> None:
    decided_from = places.index(("erase commit", "after"))
    for place in range(len(places)):
        path = tmp_path / str(place)
        shutil.copytree(ledger, path)
        with pytest.raises(Cut):
            erase(path, CONFIG, [ANNA], hook=Cutter(place))
        check(path, needles, decided=place >= decided_from)
        shutil.rmtree(path)


@pytest.mark.parametrize(
    "step",
    [
        ("append", "after"),
        ("erase commit", "before"),
        ("erase commit", "after"),
        ("erase journal", "removed"),
        ("erase state", "removed"),
        ("erase ids", "after"),
    ],
    ids=" ".join,
)
def test_an_erasure_that_is_killed(
    ledger: Path,
    needles: list[bytes],
    places: list[tuple[str, str]],
    tmp_path: Path,
    step: tuple[str, str],
) -> None:
    path = tmp_path / "data"
    shutil.copytree(ledger, path)
    place = places.index(step)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(place), str(ANNA)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    check(path, needles, decided=place >= places.index(("erase commit", "after")))


def test_an_erasure_that_is_cut_off_twice(
    ledger: Path, needles: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "data"
    shutil.copytree(ledger, path)
    for step in (("erase journal", "removed"), ("erase state", "removed"), ("erase ids", "before")):

        def hook(name: str, when: str, step: tuple[str, str] = step) -> None:
            if (name, when) == step:
                raise Cut(name)

        first = step[0] == "erase journal"
        with pytest.raises(Cut):
            erase(path, CONFIG, [ANNA], hook=hook) if first else Directory(path, hook=hook)
    check(path, needles, decided=True)
