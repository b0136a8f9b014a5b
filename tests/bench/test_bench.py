"""The benchmarks: what they post is what docs/performance.md says, and what they count is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ledger import _merkle, layout
from ledger.bench import measure
from ledger.bench.commands import bench
from ledger.bench.engine_run import RunFailed, Workload, require_created, run
from ledger.bench.generate import DISTRIBUTIONS, ID_ORDERS, Generator
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import ConfigurationError
from ledger.storage.directory import create
from ledger.storage.lmdb_store import LmdbStore

NAMES = {
    "accounts", "transfers", "seconds", "transfers_per_second", "drain_seconds", "latency_ms",
    "cpu_us_per_transfer", "disk_bytes_per_transfer", "memory_bytes_per_account", "device_syncs",
    "fsync", "commitments", "machine", "checkpoint_lag_ms", "checkpoints", "log_cpu_ms_per_second",
}  # fmt: skip


@pytest.fixture
def disk_path(tmp_path: Path) -> Path:
    if measure.file_system(tmp_path) in measure.MEMORY_FILE_SYSTEMS:
        pytest.skip("the temporary directory is in memory")
    return tmp_path


def drawn(count: int = 4000, **options: object) -> tuple[np.ndarray, Generator]:
    generator = Generator(accounts=1000, **options)  # type: ignore[arg-type]
    transfers = np.zeros(count, layout.TRANSFER)
    generator.transfers(transfers)
    return transfers, generator


def keys(column: np.ndarray) -> list[int]:
    return [layout.to_int(value) for value in column]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_transfers_are_between_accounts_of_the_run(distribution: str) -> None:
    transfers, generator = drawn(distribution=distribution)
    accounts = np.zeros(1000, layout.ACCOUNT)
    generator.accounts(accounts[:300], 0)
    generator.accounts(accounts[300:], 300)
    known = set(keys(accounts["id"]))
    assert len(known) == 1000
    debits, credits = keys(transfers["debit_account_id"]), keys(transfers["credit_account_id"])
    assert set(debits) | set(credits) <= known
    assert all(debit != credit for debit, credit in zip(debits, credits, strict=True))
    most = max(np.unique(transfers["credit_account_id"], return_counts=True)[1])
    low, high = {"uniform": (0, 0.01), "zipf": (0.08, 0.2), "hot": (1, 1)}[distribution]
    assert low <= most / 4000 <= high


def test_ordered_ids_ascend_from_request_to_request() -> None:
    first, generator = drawn(2000)
    second = np.zeros(2000, layout.TRANSFER)
    generator.transfers(second)
    ids = keys(first["id"]) + keys(second["id"])
    assert ids == sorted(set(ids))
    assert len({value & 0xFFFF for value in ids}) > 3000


def test_random_ids_are_uuids_of_version_4() -> None:
    ids = keys(drawn(id_order=ID_ORDERS[1])[0]["id"])
    assert len(set(ids)) == 4000
    assert all(value >> 76 & 0xF == 4 and value >> 62 & 3 == 2 for value in ids)
    assert ids != sorted(ids)


def test_payloads_and_amounts() -> None:
    full, lean = drawn(payload="full")[0], drawn(payload="lean")[0]
    for name in ("user_data_128", "user_data_32"):
        assert len(np.unique(full[name])) > 3900
        assert len(np.unique(lean[name])) == 1
    assert len(np.unique(lean["user_data_64"])) == 4000
    amounts = np.log(full["amount"]["lo"].astype(float))
    assert abs(np.median(amounts) - np.log(5000)) < 0.15
    assert abs(amounts.std() - 1.5) < 0.15
    assert not full["amount"]["hi"].any()
    for name in ("flags", "timeout", "timestamp"):
        assert not full[name].any()


def test_any_other_status_fails_the_run() -> None:
    results = np.zeros(3, layout.RESULT)
    results["status"] = layout.CREATED
    require_created("transfers", results)
    results["status"][2] = layout.STATUS_NUMBERS["TRANSFER"]["exists"]
    with pytest.raises(RunFailed, match="exists"):
        require_created("transfers", results)


def test_engine_command_writes_the_figures(disk_path: Path) -> None:
    file = disk_path / "out" / "figures.json"
    options = ["--accounts", "100", "--transfers", "20000", "--batch", "1000", "--json", str(file)]
    options += ["--distribution", "zipf", "--id-order", "random", "--payload", "lean"]
    outcome = CliRunner().invoke(bench, ["engine", *options, "--dir", str(disk_path)])
    assert outcome.exit_code == 0, outcome.output
    figures = json.loads(file.read_text())
    assert set(figures) >= NAMES
    assert set(figures["latency_ms"]) == {"p50", "p99", "p999", "max"}
    assert figures["transfers"] == 20000
    assert figures["transfers_per_second"] == pytest.approx(20000 / figures["seconds"], rel=0.01)
    assert figures["device_syncs"] >= 2 * figures["blocks"] >= 2
    assert [path.name for path in disk_path.iterdir()] == ["out"]


def test_run_that_posts_an_id_twice_fails(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Generator.transfers

    def repeating(self: Generator, out: np.ndarray) -> None:
        original(self, out)
        out["id"] = out["id"][0]

    monkeypatch.setattr(Generator, "transfers", repeating)
    with pytest.raises(RunFailed):
        run(
            Workload(accounts=10, transfers=1000, batch=100),
            disk_path / "data",
            Config(),
            lambda stage, done, total: None,
        )


def test_memory_file_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "file_system", lambda path: "tmpfs")
    with pytest.raises(ConfigurationError, match="tmpfs"):
        measure.real_disk(tmp_path)


def test_file_system_is_that_of_the_longest_mount() -> None:
    assert measure.file_system(Path("/proc/self")) == "proc"


def test_two_device_syncs_a_block(tmp_path: Path) -> None:
    create(tmp_path / "data")
    store = LmdbStore(tmp_path / "data", Config())
    engine = Engine(store, Config())
    engine.start()
    rows = [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]
    engine.submit("accounts", layout.record_array(layout.ACCOUNT, rows)).result(10)
    journal = store.open_journal()
    before, blocks_before = journal.transaction_count, engine.counters()["blocks"]
    for number in range(5):
        transfer = {"id": number + 1, "debit_account_id": 1, "credit_account_id": 2}
        transfer |= {"amount": 1, "ledger": 1, "code": 1}
        engine.submit("transfers", layout.record_array(layout.TRANSFER, [transfer])).result(10)
    assert journal.transaction_count - before == 5
    assert engine.counters()["blocks"] - blocks_before == 5
    assert engine.counters()["device_syncs"] >= 2 * journal.transaction_count
    engine.stop()
    store.close()
    assert engine.counters()["device_syncs"] >= 2 * 6


def test_commit_command_measures_every_kernel(tmp_path: Path) -> None:
    file, chosen = tmp_path / "out" / "figures.json", _merkle.lane_count()
    options = ["--accounts", "700", "--repeats", "1", "--json", str(file)]
    outcome = CliRunner().invoke(bench, ["commit", *options])
    assert outcome.exit_code == 0, outcome.output
    assert "65,536" in outcome.output
    figures = json.loads(file.read_text())
    kernels = [lanes for lanes in (16, 8, 4, 1) if lanes <= _merkle.widest_lanes()]
    assert [(row["entries"], row["lanes"]) for row in figures["blocks"]] == [
        (entries, lanes) for entries in (8190, 65536) for lanes in kernels
    ]
    for row in figures["blocks"]:
        parts = sum(row[f"{part}_ns"] for part in ("leaves", "root", "chains"))
        assert row["commitment_ns"] == pytest.approx(parts, abs=0.2)
        assert row["leaves_ns"] > row["root_ns"] > 0
    assert [(row["changed"], row["lanes"]) for row in figures["state_roots"]] == [
        (changed, lanes) for changed in ("none", "all") for lanes in kernels
    ]
    assert all(row["build_cpu_seconds"] > 0 for row in figures["state_roots"])
    assert _merkle.lane_count() == chosen


def test_proofs_are_measured_and_hold(disk_path: Path) -> None:
    file = disk_path / "figures.json"
    arguments = ["proofs", "--transfers", "9000", "--requests", "50", "--dir", str(disk_path)]
    done = CliRunner().invoke(bench, [*arguments, "--json", str(file)])
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    for name in (
        "block_8190_first_use_ms", "block_8190_used_ms", "block_65536_first_use_ms",
        "block_65536_used_ms", "http_transfer_ms", "just_posted_ms",
    ):  # fmt: skip
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"]
    # A path from a block that was used needs 256 entries, from another one all of them.
    assert figures["block_65536_used_ms"]["p50"] < figures["block_65536_first_use_ms"]["p50"] / 5
    assert 2000 < figures["transfer_bundle_bytes"] < 4000
    assert figures["statement_bundle_bytes"] > 1000 * 180
