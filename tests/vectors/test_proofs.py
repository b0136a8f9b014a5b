"""Every vector of proofs by verify.py, with the packages and without; and the vectors are current.

A vector is one case a file: what is handed to the verifier, the options it is called with, and
whether it accepts or with which code it refuses. docs/testing.md says how they are made.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ledger.proof import verify
from tests.vectors import make

NAMES = sorted(make.CASES)
MODES = ["pure", "packages"]


@pytest.fixture(params=MODES)
def mode(request):
    """Pure Python, or the packages; put back afterwards."""
    before = verify.CRYPTOGRAPHY
    verify.choose(request.param == "pure")
    yield request.param
    verify.CRYPTOGRAPHY = before


def written(vector: dict[str, Any], folder: Path) -> list[str]:
    """Write the files of a vector below a folder; return the arguments of verify.py."""
    files, arguments = vector["files"], []
    if "zip" in files:
        bundle = folder / "export.zip"
        bundle.write_bytes(base64.b64decode(files["zip"]))
    else:
        bundle = folder / "export"
        bundle.mkdir()
        for name, text in files.items():
            plain, _, form = name.partition(":")
            data = base64.b64decode(text) if form == "base64" else text.encode()
            (bundle / plain).write_bytes(data)
        if [name.partition(":")[0] for name in files] == ["bundle.json"]:
            bundle = bundle / "bundle.json"
    if vector["policy"] is not None:
        (folder / "policy").write_text(vector["policy"], newline="")
        arguments += ["--policy", str(folder / "policy")]
    for option, value in vector["arguments"].items():
        for one in value if isinstance(value, list) else [value]:
            arguments += [f"--{option}"] if one is True else [f"--{option}", str(one)]
    return [str(bundle), *arguments]


def verdict(arguments: list[str], capfdbinary) -> tuple[int, dict[str, Any]]:
    status = verify.main([*arguments, "--json"])
    out, err = capfdbinary.readouterr()
    assert err == b""
    return status, json.loads(out)


@pytest.mark.parametrize("name", NAMES)
def test_vector(name, mode, tmp_path, capfdbinary, monkeypatch):
    monkeypatch.setenv("SANYUAN_VERIFY_PURE", "1" if mode == "pure" else "0")
    vector = json.loads((make.FOLDER / f"{name}.json").read_text())
    status, found = verdict(written(vector, tmp_path), capfdbinary)
    assert found["code"] == vector["code"], found["reason"]
    assert found["verdict"] == ("accepted" if vector["accept"] else "refused"), found["reason"]
    assert status == (0 if vector["accept"] else 1)
    assert all(check["ok"] for check in found["checks"]) == vector["accept"]
    assert (found["reason"] is None) == vector["accept"]


def test_vectors_are_current():
    """``python -m tests.vectors.make`` makes the same files again."""
    stored = {path.stem for path in make.FOLDER.glob("*.json")}
    assert stored == set(make.CASES)
    for name in NAMES:
        assert (make.FOLDER / f"{name}.json").read_text() == make.render(name), name


def test_more_is_refused_than_accepted_and_every_code_is_reached():
    codes = [code for code, _, _ in make.CASES.values()]
    assert codes.count(None) < len(codes) / 3
    assert set(codes) - {None} == set(verify.REFUSALS_ZH)
    proven = set(verify.ITEMS)
    accepted = [make.CASES[name][2]() for name in NAMES if make.CASES[name][0] is None]
    seen = set()
    for case in accepted:
        data = case.files.get("bundle.json") or make.small_export()["bundle.json"]
        seen |= {item["type"] for item in json.loads(data)["items"]}
    assert seen == proven
