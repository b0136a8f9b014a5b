"""The real bank of examples/berka.py, where its data lies beside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.cli.process import ServerProcess
from ledger.storage import directory as data_directory

ROOT = Path(__file__).resolve().parents[2]
DATA = next(
    (p for p in (ROOT.parent / "shared/data/berka", ROOT / "shared/data/berka") if p.is_dir()),
    None,
)


@pytest.mark.skipif(DATA is None, reason="../shared/data/berka is not beside the checkout")
def test_every_balance_is_the_banks_but_on_the_day_where_the_file_is_cut(tmp_path: Path) -> None:
    data_directory.create(tmp_path / "data")
    with ServerProcess(tmp_path / "data") as server:
        command = [sys.executable, str(ROOT / "examples/berka.py"), "--url", server.url]
        done = subprocess.run(
            [*command, "--json", str(DATA)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"},
        )
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["transfers"] == 49_102
        assert figures["accounts"] == 4_505
        assert figures["account_days"] == 39_960
        assert figures["agree"] == 39_932
        assert figures["differ_by_day"] == {"1994-03-31": 28}
        assert figures["last_day"] == "1994-03-31"
