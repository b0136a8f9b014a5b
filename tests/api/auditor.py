"""An auditor: takes what the server gives to ``verify.py``, in a process and folder of its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ledger.proof

VERIFIER = Path(ledger.proof.__file__).with_name("verify.py")


class Auditor:
    """Has a copy of the verifier, and a policy, and nothing else of the ledger's."""

    def __init__(self, folder: Path, policy: bytes) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.verifier = folder / "verify.py"
        shutil.copyfile(VERIFIER, self.verifier)
        self.policy = folder / "policy.txt"
        self.policy.write_bytes(policy)

    def judge(self, body: bytes, *arguments: str, pure: bool = False) -> dict[str, Any]:
        """Return the verifier's verdict on a bundle, or on a package."""
        name = "package.zip" if body.startswith(b"PK") else "bundle.json"
        (self.folder / name).write_bytes(body)
        done = subprocess.run(
            [
                *(sys.executable, "-I", str(self.verifier), name, "--policy", "policy.txt"),
                *("--json", *arguments, *(["--pure"] if pure else [])),
            ],
            cwd=self.folder,
            env={},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.stderr == b""
        verdict: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == {"accepted": 0, "refused": 1, "error": 2}[verdict["verdict"]]
        return verdict

    def accepts(self, body: bytes, *arguments: str, pure: bool = False) -> dict[str, Any]:
        """The verdict, which must be that everything holds."""
        verdict = self.judge(body, *arguments, pure=pure)
        assert verdict["verdict"] == "accepted", verdict
        return verdict

    def refuses(self, body: bytes, *arguments: str) -> str:
        """The code of the refusal, which there must be."""
        verdict = self.judge(body, *arguments)
        assert verdict["verdict"] == "refused", verdict
        code: str = verdict["code"]
        return code


def mentions(body: bytes, identifier: int) -> bool:
    """Whether a file has an id in it, in any of the ways in which it could: as a number, in either
    order of bytes, hexadecimal, or in base64 whichever way the bytes fall."""
    if str(identifier).encode() in body:
        return True
    for order in ("little", "big"):
        raw = identifier.to_bytes(16, order)  # type: ignore[arg-type]
        if raw in body or raw.hex().encode() in body or raw.hex().upper().encode() in body:
            return True
        for shift in range(3):
            # Of each phase the characters that do not depend on what is beside the bytes.
            text = base64.b64encode(bytes(shift) + raw + bytes(2))
            first = (0, 2, 3)[shift]
            if text[first : first + 20] in body:
                return True
    return any(mentions_in(value, identifier) for value in decoded(body))


def mentions_in(data: bytes, identifier: int) -> bool:
    """Whether decoded bytes have an id in them."""
    return any(
        identifier.to_bytes(16, order) in data  # type: ignore[arg-type]
        for order in ("little", "big")
    )


def decoded(body: bytes) -> list[bytes]:
    """Every string of a bundle that is base64, decoded."""
    found: list[bytes] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, str):
            try:
                found.append(base64.b64decode(value, validate=True))
            except ValueError:
                return

    if body.startswith(b"{"):
        walk(json.loads(body))
    return found
