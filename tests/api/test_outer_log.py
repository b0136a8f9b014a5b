"""The outer log over HTTP: checkpoint and tiles, to anyone, as tlog-tiles asks."""

from __future__ import annotations

import gzip

import pytest
from yarl import URL

from ledger.proof import tree
from ledger.proof.interval import parse_record
from ledger.proof.notes import VerifierKey, parse_checkpoint, parse_note
from tests.api.harness import Service, running


async def test_anybody_can_check_the_log(bank: Service) -> None:
    answer = await bank.get("/checkpoint")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    note = parse_note(answer.raw)
    publisher = bank.context.publisher
    assert publisher is not None
    key = publisher.log.directory.parent / "signing-key.policy"
    assert note.signed_by(VerifierKey.parse(key.read_text().split()[1]))
    checkpoint = parse_checkpoint(note.text)
    assert 1 <= checkpoint.size < 256

    hashes = await bank.get(f"/tile/0/000.p/{checkpoint.size}")
    assert hashes.headers["Content-Type"] == "application/octet-stream"
    assert "immutable" in hashes.headers["Cache-Control"]
    leaves = [hashes.raw[at : at + 32] for at in range(0, len(hashes.raw), 32)]
    assert tree.root_of(leaves) == checkpoint.root

    entries = await bank.get(f"/tile/entries/000.p/{checkpoint.size}")
    assert entries.headers["Content-Type"] == "application/octet-stream"
    records, data = [], entries.raw
    while data:
        size = int.from_bytes(data[:2], "big")
        records.append(data[2 : 2 + size])
        data = data[2 + size :]
    assert [tree.leaf_hash(one) for one in records] == leaves
    assert parse_record(records[0].decode()).first_block == 0


async def test_records_are_compressed_for_who_asks(bank: Service) -> None:
    plain = await bank.call("GET", "/tile/entries/000.p/1", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    url = bank.server.url + "/tile/entries/000.p/1"
    async with bank.session.get(
        url, headers={"Accept-Encoding": "gzip"}, auto_decompress=False
    ) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await response.read()) == plain.raw


@pytest.mark.parametrize(
    "name",
    [
        "0/999", "0/000", "0/000.p/255", "1/000.p/1", "64/000", "0/0", "0/000.p/0", "0/000.p/256",
        "entries/000", "entries/x001/000", "0/000.new", "0/000.p", "data/000",
         "0/..%2f..%2f..%2fsigning-key", "entries/000.p/1/",
        "0%00/000", "/0/000", "0//000",
    ],
)  # fmt: skip
async def test_what_is_no_tile_is_not_found(bank: Service, name: str) -> None:
    answer = await bank.get(f"/tile/{name}")
    assert answer.status == 404
    assert answer.code in ("tile_not_found", "route_not_found")
    assert b"signing" not in answer.raw.replace(b"signing-key", b"")


@pytest.mark.parametrize("name", ["../checkpoint", "%2e%2e/checkpoint", "0/%2e%2e/%2e%2e/x"])
async def test_no_name_leads_out_of_the_folder(bank: Service, name: str) -> None:
    url = URL(f"{bank.server.url}/tile/{name}", encoded=True)  # as it stands, dots and all
    async with bank.session.get(url) as response:
        assert response.status == 404
        assert "checkpoint_not_found" not in await response.text()


async def test_before_the_first_checkpoint_and_without_a_log(service: Service) -> None:
    assert (await service.get("/checkpoint")).code == "checkpoint_not_found"
    assert (await service.get("/tile/0/000.p/1")).code == "tile_not_found"
    async with running(publisher=None) as one:
        await one.created("/v1/accounts", {"id": "1", "ledger": 156, "code": 10})
        assert (await one.get("/checkpoint")).code == "checkpoint_not_found"
        assert (await one.get("/tile/0/000.p/1")).code == "tile_not_found"


async def test_metrics_of_the_log(bank: Service) -> None:
    lines = (await bank.get("/metrics")).raw.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values["sanyuan_log_size"]) >= 1
    assert int(values["sanyuan_published_checkpoint_size"]) >= 1
    assert float(values["sanyuan_checkpoint_age_seconds"]) >= 0
    assert float(values["sanyuan_cosigned_checkpoint_age_seconds"]) >= 0
