"""Signing keys: their files, what they refuse to sign, how one takes the other's place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.errors import ConfigurationError, DirectoryInUse
from ledger.proof import signing, tree
from ledger.proof.notes import (
    ED25519,
    Note,
    SigningKey,
    parse_checkpoint,
    parse_note,
)
from ledger.proof.policy import parse_policy
from ledger.proof.signing import KeyUnreadable, LogForked, Signer, create_key, read_key

NAME = "bank.example/ledger"
LEAVES = [tree.leaf_hash(b"%d" % i) for i in range(50)]


def root(size: int, leaves: list[bytes] = LEAVES) -> bytes:
    return tree.root_of(leaves[:size])


def consistency(old: int, new: int, leaves: list[bytes] = LEAVES) -> list[bytes]:
    return tree.consistency_path(old, new, lambda start, end: tree.root_of(leaves[start:end]))


def sign(signer: Signer, size: int) -> Note:
    return signer.sign(size, root(size), consistency)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "key", name=NAME, passphrase=None)
    return tmp_path / "key"


@pytest.mark.parametrize("passphrase", [None, "三元 secret".encode()])
def test_a_new_key(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "key"
    verifier = create_key(path, name=NAME, passphrase=passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing.read_verifier(path) == verifier
    assert signing.is_encrypted(path) == (passphrase is not None)
    secret = read_key(path, passphrase)
    assert (secret.name, secret.kind, secret.verifier) == (NAME, ED25519, verifier)
    assert (secret.secret_text() in path.read_text()) == (passphrase is None)
    assert parse_policy((tmp_path / "key.policy").read_bytes()).logs[0].key == verifier
    assert (tmp_path / "key.policy").read_text() == f"log {verifier}\nquorum none\n"
    with Signing(path, passphrase) as signer:
        assert signer.last.size == 0
        note = sign(signer, 3)
        assert note.signed_by(verifier)
        assert parse_checkpoint(note.text).root == root(3)
    with pytest.raises(ConfigurationError, match="exists"):
        create_key(path, name=NAME, passphrase=None)


class Signing:
    """A signer that is closed at the end."""

    def __init__(self, path: Path, passphrase: bytes | None = None) -> None:
        self.signer = Signer(path, passphrase)

    def __enter__(self) -> Signer:
        return self.signer

    def __exit__(self, *error: object) -> None:
        self.signer.close()


def test_a_wrong_passphrase_and_a_changed_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path, name=NAME, passphrase=b"right")
    for passphrase in (b"wrong", b"", None):
        with pytest.raises(KeyUnreadable):
            read_key(path, passphrase)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    for changed in (
        text.replace("scrypt 131072", "scrypt 65536"),
        text.replace("scrypt 131072", "scrypt 131071"),
        text.replace("scrypt 131072", "scrypt 99999999"),
        text[:-10] + "AAAAAAAA=\n",
        text + "\n",
        text[:-1],
        "".join(lines[:-1]),
        text.replace(NAME, "other.example"),
        "x" * 10_000,
        "\xff",
        "",
    ):
        path.write_bytes(changed.encode("latin-1"))
        with pytest.raises(KeyUnreadable) as caught:
            read_key(path, b"right")
        assert "right" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o777])
def test_a_key_that_others_can_read_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(KeyUnreadable, match="chmod 600"):
        Signer(key)
    key.chmod(0o600)
    Signer(key).close()


def test_other_files_are_no_keys(tmp_path: Path, key: Path) -> None:
    wrong: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None,
        "directory": lambda path: path.mkdir(mode=0o700),
        "pipe": lambda path: os.mkfifo(path, 0o600),
        "witness": lambda path: write_private(
            path, SigningKey("w.example", 4, bytes(32)).secret_text() + "\n"
        ),
        "name": lambda path: write_private(
            path, SigningKey("wörld", ED25519, bytes(32)).secret_text() + "\n"
        ),
        "text": lambda path: write_private(path, "PRIVATE+KEY+x+y+z\n"),
    }
    for name, make in wrong.items():
        path = tmp_path / name
        make(path)
        with pytest.raises(KeyUnreadable):
            read_key(path, None)


def write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "x" * 201, "wörld", "tab\t", "line\n"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a log"):
        create_key(tmp_path / "key", name=name, passphrase=None)
    assert list(tmp_path.iterdir()) == []


def test_only_what_extends_the_newest_is_signed(key: Path) -> None:
    other = [*LEAVES[:4], *reversed(LEAVES[4:])]
    with Signing(key) as signer:
        first = sign(signer, 5)
        for size, leaves in ((4, LEAVES), (3, LEAVES), (0, LEAVES), (5, other), (9, other)):
            with pytest.raises(LogForked, match="old backup"):
                signer.sign(
                    size,
                    root(size, leaves),
                    lambda old, new, leaves=leaves: consistency(old, new, leaves),
                )
        with pytest.raises(LogForked):
            signer.sign(9, root(9), lambda old, new: consistency(old, new)[:-1])
        assert sign(signer, 5) == first
        assert sign(signer, 8) != first
    with Signing(key) as signer:
        assert signer.last.size == 8
        with pytest.raises(LogForked):
            sign(signer, 5)
        assert str(sign(signer, 8)) == (key.parent / "key.checkpoint").read_text()


def test_what_was_signed_is_durable_before_the_signature(key: Path) -> None:
    """A crash around the state file leaves the one before or the one after, and both go on."""
    for size, when in ((3, "before"), (4, "after")):
        reached = []

        def hook(step: str, at: str, when: str = when, reached: list[str] = reached) -> None:
            reached.append(step)
            if (step, at) == ("state", when):
                raise KeyboardInterrupt

        signer = Signer(key, hook=hook)
        with pytest.raises(KeyboardInterrupt):
            sign(signer, size)
        signer.close()
        assert reached
        stored = parse_checkpoint(parse_note((key.parent / "key.checkpoint").read_bytes()).text)
        assert stored.size == (0 if when == "before" else 4)
    with Signing(key) as signer:
        sign(signer, 4)
        sign(signer, 5)


def test_the_state_is_synced_file_then_name_then_folder(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"rename {target.name}")
        rename(source, target)

    with Signing(key) as signer:
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", renamed)
        sign(signer, 5)
        assert done == [
            "sync key.checkpoint.new",
            "rename key.checkpoint",
            f"sync {key.parent.name}",
        ]
        done.clear()
        sign(signer, 5)  # the same again is no new promise
        assert done == []


def test_without_its_state_a_key_signs_nothing(key: Path) -> None:
    state = key.parent / "key.checkpoint"
    with Signing(key) as signer:
        sign(signer, 5)
    kept = state.read_bytes()
    changed = bytearray(kept)
    changed[len(NAME) + 1] ^= 1  # another size under the same signature
    other = SigningKey(NAME, ED25519, bytes(32))
    wrong = {
        "is missing": None,
        "does not verify": bytes(changed),
        "not UTF-8": b"\xff" * 100,
        "without": b"",
        "no listed key": bytes(
            signing.sign_checkpoint(other, signing.Checkpoint(NAME, 5, root(5)))
        ),
    }
    for message, data in wrong.items():
        state.unlink(missing_ok=True)
        if data is not None:
            state.write_bytes(data)
        with pytest.raises(ConfigurationError, match=message):
            Signer(key)
    state.write_bytes(kept)
    Signer(key).close()
    (key.parent / "key.policy").unlink()
    with pytest.raises(ConfigurationError, match="policy is missing"):
        Signer(key)


def test_a_lost_key_is_not_made_anew(key: Path) -> None:
    with Signing(key) as signer:
        sign(signer, 5)
    key.unlink()
    with pytest.raises(ConfigurationError, match="bring it back"):
        create_key(key, name=NAME, passphrase=None)


def test_one_process_has_a_key(key: Path) -> None:
    with Signing(key):
        with pytest.raises(DirectoryInUse):
            Signer(key)
    Signer(key).close()


def test_rotation(key: Path) -> None:
    with Signing(key) as signer:
        old = signer.verifier
        sign(signer, 5)
    new = signing.prepare_next(key, name=NAME, passphrase=b"secret")
    assert signing.next_exists(key)
    assert signing.prepare_next(key, name=NAME, passphrase=None) == new
    with Signing(key) as signer:  # until the switch the old key signs
        sign(signer, 6)
    policy = signing.switch_to_next(key)
    assert not signing.next_exists(key)
    assert [(log.key, log.first_size, log.last_size) for log in policy.logs] == [
        (old, 0, 6),
        (new, 7, None),
    ]
    assert (key.parent / "key.policy").read_text() == (
        f"log {old}\n# sanyuan-range {NAME}+{old.hex_id} 0 6\n"
        f"log {new}\n# sanyuan-range {NAME}+{new.hex_id} 7 -\n"
        "quorum none\n"
    )
    with Signing(key, b"secret") as signer:
        assert sign(signer, 6).signed_by(old)
        with pytest.raises(LogForked):
            sign(signer, 5)
        assert sign(signer, 8).signed_by(new)
    third = signing.prepare_next(key, name=NAME, passphrase=None)
    policy = signing.switch_to_next(key)
    assert [(log.key, log.first_size, log.last_size) for log in policy.logs] == [
        (old, 0, 6),
        (new, 7, 8),
        (third, 9, None),
    ]


def test_a_rotation_cut_off_anywhere_is_finished(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail before each rename in turn: the key and the policy always belong together again."""
    with Signing(key) as signer:
        sign(signer, 5)
    for allowed in range(6):
        verifier = signing.prepare_next(key, name=NAME, passphrase=None)
        old = signing.read_verifier(key)
        renames = 0

        def replace(source: Path, target: Path, allowed: int = allowed) -> None:
            nonlocal renames
            renames += 1
            if renames > allowed:
                raise KeyboardInterrupt
            os.rename(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace)
            with contextlib.suppress(KeyboardInterrupt):
                signing.switch_to_next(key)
        with Signing(key) as signer:
            assert signer.verifier in (old, verifier)
            if signer.verifier == old:
                assert signing.next_exists(key)
            assert signing.read_policy(key).logs[-1].key == signer.verifier
            sign(signer, signer.last.size + 1)
        if signing.next_exists(key):
            assert signing.switch_to_next(key).logs[-1].key == verifier
        with Signing(key) as signer:
            sign(signer, signer.last.size + 1)
    sizes = [(log.first_size, log.last_size) for log in signing.read_policy(key).logs]
    assert [first for first, _ in sizes[1:]] == [last + 1 for _, last in sizes[:-1]]
