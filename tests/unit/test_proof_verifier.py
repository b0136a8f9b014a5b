"""verify.py by itself: its cryptography and trees against published vectors, every flipped bit,
hostile input, and the command.
"""

from __future__ import annotations

import ast
import base64
import copy
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.proof import verify
from tests.model.proofs import canonical, consistency_of, drawn, root_of, sealed, sha_join, sha_leaf
from tests.vectors import make

SHARED = Path(__file__).parents[2].parent / "shared" / "vectors"
SOURCE = Path(verify.__file__)
needs_vectors = pytest.mark.skipif(
    not SHARED.exists(), reason="the published vectors are not beside the project"
)


@pytest.fixture(params=["pure", "packages"])
def mode(request):
    before = verify.CRYPTOGRAPHY
    verify.choose(request.param == "pure")
    yield request.param
    verify.CRYPTOGRAPHY = before


@pytest.fixture
def packages():
    before = verify.CRYPTOGRAPHY
    verify.choose(False)
    yield
    verify.CRYPTOGRAPHY = before


def judged(data: bytes, policy: str | None = make.SMALL_POLICY) -> verify.Report:
    """The report on a zip or bundle.json in memory; what is wrong with the zip is refused too."""
    try:
        package = verify.package_of_bytes(data)
    except verify.Refusal as refusal:
        report = verify.Report()
        report.verdict, report.code = "refused", refusal.code
        return report
    return verify.examine(package, None if policy is None else policy.encode())


# -- BLAKE3 ------------------------------------------------------------------------------------


@needs_vectors
def test_blake3_published_vectors():
    vectors = json.loads((SHARED / "blake3_test_vectors.json").read_text())
    key, context = vectors["key"].encode(), vectors["context_string"].encode()
    derived = verify.blake3_in_python(verify.IV, context, verify.CONTEXT)
    words = verify.WORDS_8.unpack(derived)
    for case in vectors["cases"]:
        data = bytes(i % 251 for i in range(case["input_len"]))
        assert verify.blake3_keyed_in_python(key, data).hex() == case["keyed_hash"][:64]
        material = verify.blake3_in_python(words, data, verify.MATERIAL)
        assert material.hex() == case["derive_key"][:64]
        assert verify.blake3_in_python(verify.IV, data, 0).hex() == case["hash"][:64]


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 5000))
def test_blake3_of_any_size(key, size):
    data = drawn(key.hex(), size)
    assert verify.blake3_keyed_in_python(key, data) == blake3.blake3(data, key=key).digest()


def test_keys_are_derived():
    for name, key in verify.KEYS.items():
        context = f"sanyuan 2026 v1 {name}"
        assert key == blake3.blake3(b"", derive_key_context=context).digest()
    assert len(set(verify.KEYS.values())) == len(verify.KEYS) == 19


# -- Ed25519 -----------------------------------------------------------------------------------

RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9"
        "b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f1"
        "1d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984d"
        "c6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize("vector", RFC_8032, ids=["1", "2", "3"])
def test_rfc_8032_vectors(vector, mode):
    public, message, signature = (bytes.fromhex(part) for part in vector)
    assert verify.verify_ed25519(public, message, signature)
    for bit in range(0, 512, 7):
        wrong = bytearray(signature)
        wrong[bit // 8] ^= 1 << bit % 8
        assert not verify.verify_ed25519(public, message, bytes(wrong))
    assert not verify.verify_ed25519(public, message + b"\0", signature)
    for size in (0, 63, 65):
        assert not verify.verify_ed25519(public, message, (signature + b"\0")[:size])


def encoded(point: verify.Point) -> bytes:
    inverse = pow(point[2], -1, verify.P)
    x, y = point[0] * inverse % verify.P, point[1] * inverse % verify.P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def times(number: int, point: verify.Point) -> verify.Point:
    total = verify.NEUTRAL
    for bit in bin(number)[2:]:
        total = verify.double_point(total)
        if bit == "1":
            total = verify.add_points(total, point)
    return total


@cache
def of_order_eight() -> verify.Point:
    """A point of order 8: some point times the order of the large subgroup."""
    for y in range(2, 99):
        point = verify.decode_point(y.to_bytes(32, "little"))
        if point is None:
            continue
        torsion = times(verify.L, point)
        if encoded(times(4, torsion)) != encoded(verify.NEUTRAL):
            return torsion
    raise AssertionError


def test_keys_of_small_order_are_refused(mode):
    """All eight points, and what else decodes to them where the encoding need not be canonical."""
    points = {encoded(times(k, of_order_eight())) for k in range(8)}
    assert len(points) == 8
    others = set()
    for point in points:
        y = int.from_bytes(point, "little") & (1 << 255) - 1
        for value in (y, y + verify.P):
            for sign in (0, 1 << 255):
                if value < 1 << 255:
                    others.add((value | sign).to_bytes(32, "little"))
    for public in points | others:
        assert not verify.is_good_public_key(public)
        assert not verify.verify_ed25519(public, b"anything", encoded(verify.NEUTRAL) + bytes(32))


def test_keys_that_are_not_canonical_are_refused(mode):
    for extra in range(19):
        for sign in (0, 1 << 255):
            public = (verify.P + extra | sign).to_bytes(32, "little")
            assert not verify.is_good_public_key(public)


def signed(secret: int, public: bytes, message: bytes, nonce: int) -> bytes:
    r = encoded(times(nonce, verify.BASE))
    k = int.from_bytes(verify.hashlib.sha512(r + public + message).digest(), "little") % verify.L
    return r + ((nonce + k * secret) % verify.L).to_bytes(32, "little")


def test_one_rule_where_libraries_differ():
    """S + L, another R of small difference, and a key with a part of small order: both ways of
    computing give the same answer, which is that of the equation without cofactor.
    """
    secret, base = 1234567 << 100, verify.BASE
    key, torsion = times(secret, base), of_order_eight()
    plain, mixed = encoded(key), encoded(verify.add_points(key, torsion))
    answers: dict[str, set[bool]] = {}
    before = verify.CRYPTOGRAPHY
    try:
        for pure in (True, False):
            verify.choose(pure)
            found = []
            for number in range(24):
                message = b"message %d" % number
                good = signed(secret, plain, message, 99 + number)
                larger = int.from_bytes(good[32:], "little") + verify.L
                r = verify.decode_point(good[:32])
                other = encoded(verify.add_points(r, torsion)) + good[32:]
                for name, public, signature in (
                    ("plain", plain, good),
                    ("S + L", plain, good[:32] + larger.to_bytes(32, "little")),
                    ("R + torsion", plain, other),
                    ("mixed key", mixed, signed(secret, mixed, message, 99 + number)),
                ):
                    answer = verify.verify_ed25519(public, message, signature)
                    answers.setdefault(name, set()).add(answer)
                    found.append(answer)
            if pure:
                first = found
        assert found == first
    finally:
        verify.CRYPTOGRAPHY = before
    assert answers["plain"] == {True}
    assert answers["S + L"] == answers["R + torsion"] == {False}
    assert answers["mixed key"] == {True, False}  # true when the challenge is a multiple of 8


# -- Trees and notes ---------------------------------------------------------------------------


@needs_vectors
def test_rfc_6962_inclusion_vectors():
    cases = sorted((SHARED / "rfc6962-inclusion").rglob("*.json"))
    assert len(cases) > 80
    wrong = 0
    for path in cases:
        case = json.loads(path.read_text())
        leaf, root = (base64.b64decode(case[name] or "") for name in ("leafHash", "root"))
        proof = [base64.b64decode(one or "") for one in case["proof"] or []]
        found = verify.root_of_path(
            leaf, case["leafIdx"], case["treeSize"], proof, verify.sha256_node
        )
        assert (found != root or len(leaf) != 32) == case["wantErr"], path
        wrong += case["wantErr"]
    assert wrong > 60


def test_consistency_of_all_sizes():
    leaves = [sha_leaf(b"%d" % number) for number in range(20)]
    roots = [
        root_of(leaves[:size], sha_join) if size else verify.hashlib.sha256().digest()
        for size in range(len(leaves) + 1)
    ]
    for new in range(1, len(leaves) + 1):
        for old in range(new + 1):
            path = consistency_of(leaves[:new], old, sha_join) if old else []
            assert verify.is_consistent(old, roots[old], new, roots[new], path)
            assert not verify.is_consistent(old, roots[old], new, roots[new], [*path, roots[1]])
            for place in range(len(path)):
                cut = path[:place] + path[place + 1 :]
                assert not verify.is_consistent(old, roots[old], new, roots[new], cut)
                bent = [*path[:place], roots[0], *path[place + 1 :]]
                assert not verify.is_consistent(old, roots[old], new, roots[new], bent)
            if old and old != new:
                assert not verify.is_consistent(old, roots[new], new, roots[new], path)
                assert not verify.is_consistent(old, roots[old], new, roots[old], path)
                assert not verify.is_consistent(new, roots[new], old, roots[old], path)


@needs_vectors
def test_published_notes(mode):
    shared = json.loads((SHARED / "notes.json").read_text())
    checkpoints = {}
    for note in shared["notes"]:
        text, _, lines = note["note"].rpartition("\n\n")
        key = verify.read_key(note["vkey"].encode(), verify.LOG_KEY, "key")
        signatures = [verify.read_signature(line) for line in lines[:-1].split("\n")]
        mine = [one for one in signatures if one.is_of(key)]
        assert mine
        for signature in mine:
            assert verify.verify_ed25519(key.public, text.encode() + b"\n", signature.data)
        if note["name"].startswith("monkeys"):
            checkpoint = verify.read_checkpoint(note["note"])
            policy = verify.read_policy(f"log {note['vkey']}\nquorum none\n".encode())
            assert verify.check_signatures(checkpoint, policy) == ([key], {})
            checkpoints[checkpoint.size] = checkpoint
    path = [bytes.fromhex(one) for one in shared["monkeys_consistency_5_8_hex"]]
    old, new = checkpoints[5], checkpoints[8]
    assert verify.is_consistent(old.size, old.root, new.size, new.root, path)
    for witness in shared["witness_keys"]:
        assert base64.b64decode(witness["vkey"].split("+", 2)[2])[0] == 1
        with pytest.raises(verify.Refusal, match="witness key"):
            verify.read_key(witness["vkey"].encode(), verify.WITNESS_KEY, "key")


# -- Flipped bits ------------------------------------------------------------------------------


def small_files() -> dict[str, bytes]:
    zipped = make.zipped(make.small_export(False)).zip
    assert zipped is not None
    return {"bundle": make.small_bundle().text().encode(), "zip": zipped}


def check_flips(data: bytes, bits: range | list[int]) -> None:
    assert judged(data).verdict == "accepted"
    for bit in bits:
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        assert judged(bytes(wrong)).verdict == "refused", f"bit {bit}"


@pytest.mark.parametrize("which", ["bundle", "zip"])
def test_every_flipped_bit_is_refused(which, packages):
    data = small_files()[which]
    check_flips(data, range(8 * len(data)))


@pytest.mark.parametrize("which", ["bundle", "zip"])
def test_flipped_bits_are_refused_in_python_alone(which):
    data = small_files()[which]
    verify.choose(True)
    check_flips(data, random.Random(which).sample(range(8 * len(data)), 500))


@pytest.mark.long
@pytest.mark.parametrize("which", ["bundle", "zip"])
def test_every_flipped_bit_is_refused_in_python_alone(which):
    data = small_files()[which]
    verify.choose(True)
    check_flips(data, range(8 * len(data)))


def places_of(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every text, number and truth value in a bundle."""
    if isinstance(value, dict):
        return [found for name in value for found in places_of(value[name], (*path, name))]
    if isinstance(value, list):
        found = [one for at, part in enumerate(value) for one in places_of(part, (*path, at))]
        return [*found, path] if not value else found
    return [path]


def at_path(value, path: tuple):
    for step in path:
        value = value[step]
    return value


def put_at(value, path: tuple, new: object):
    value = copy.deepcopy(value)
    at_path(value, path[:-1])[path[-1]] = new
    return value


BUNDLES = {
    "entry": lambda: make.small_bundle(),
    "statement": lambda: make.Forger().statement(),
    "newest": lambda: make.Forger().made(lambda b: b.add_account(make.ALICE, 3, newest=True)),
    "totals": lambda: make.Forger().made(
        lambda b: b.add_trial_balance(3), lambda b: b.add_tile(3, 1, 0)
    ),
    "log": lambda: make.Forger().made(
        lambda b: b.add_consistency(b.ledger.checkpoint(size=3)),
        lambda b: b.add_sample(3, witness=make.COURT.name),
    ),
}


@cache
def bundle_value(name: str) -> dict:
    return BUNDLES[name]().value()


def policy_of(name: str) -> str:
    return make.SMALL_POLICY if name == "entry" else make.POLICY


def flips_of(value: dict) -> list[tuple[tuple, object]]:
    """Every bit of every base64 value, and every character of every other text, changed once."""
    found: list[tuple[tuple, object]] = []
    for path in places_of({name: part for name, part in value.items() if name != "sha256"}):
        old = at_path(value, path)
        if isinstance(old, int):
            found.append((path, old + 1 if not isinstance(old, bool) else not old))
        if not isinstance(old, str):
            continue
        try:
            data = verify.strict_base64(old)
        except ValueError:
            data = b""
        for bit in range(8 * len(data)):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            found.append((path, base64.b64encode(wrong).decode()))
        if not data:
            found += [(path, old[:i] + chr(ord(c) ^ 1) + old[i + 1 :]) for i, c in enumerate(old)]
    return found


def check_deep_flips(name: str, flips: list[tuple[tuple, object]]) -> None:
    value = bundle_value(name)
    assert judged(canonical(value).encode(), policy_of(name)).verdict == "accepted"
    for path, new in flips:
        text = canonical(sealed(put_at(value, path, new)))
        assert judged(text.encode(), policy_of(name)).verdict == "refused", (path, new)


@pytest.mark.parametrize("name", BUNDLES)
def test_flipped_bits_behind_the_digest_are_refused(name, packages):
    """The digest is made good each time, so every bit must be bound by something else."""
    flips = flips_of(bundle_value(name))
    check_deep_flips(name, random.Random(name).sample(flips, min(600, len(flips))))


@pytest.mark.long
@pytest.mark.parametrize("name", BUNDLES)
def test_every_flipped_bit_behind_the_digest_is_refused(name, packages):
    check_deep_flips(name, flips_of(bundle_value(name)))


# -- Hostile input -----------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2**53 - 1),
    st.sampled_from([0, 1, 2**53 - 1, 2**32, 2**31]),
    st.text(max_size=20),
    st.sampled_from(["", "A", "AA==", "AAAA", "0", "00", "-1", "１", str(2**128), "A" * 4096]),
    st.binary(max_size=300).map(lambda data: base64.b64encode(data).decode()),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_hostile_values_are_refused(data):
    """Any value anywhere in a bundle replaced, the digest made good: refused, and no traceback."""
    verify.choose(False)
    name = data.draw(st.sampled_from(sorted(BUNDLES)))
    value = bundle_value(name)
    path = data.draw(st.sampled_from(places_of(value)))
    path = path[: data.draw(st.integers(1, len(path)))]
    wrong = put_at(value, path, data.draw(HOSTILE))
    if path != ("sha256",):
        wrong = sealed(wrong)
    report = judged(canonical(wrong).encode(), policy_of(name))
    assert report.verdict == ("accepted" if wrong == value else "refused")
    assert report.code is None or report.code in verify.REFUSALS_ZH


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_hostile_bytes_are_refused(data):
    """Pieces cut out, put in and repeated, and anything at all."""
    verify.choose(False)
    original = small_files()[data.draw(st.sampled_from(["bundle", "zip"]))]
    cut = st.integers(0, len(original))
    a, b = sorted((data.draw(cut), data.draw(cut)))
    middle = data.draw(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"", original, original[a:b] * 2, b"PK\3\4" * 9, b"\0" * 99, b'"' * 9]
            ),
        )
    )
    wrong = original[:a] + middle + original[b:]
    report = judged(wrong)
    assert report.verdict == ("accepted" if wrong == original else "refused")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_hostile_policies_are_refused_or_read(data):
    text = make.POLICY.encode() + make.RANGES.encode()
    cut = st.integers(0, len(text))
    a, b = sorted((data.draw(cut), data.draw(cut)))
    words = [b"", b"\n", b" ", b"#", b"quorum none\n", b"group g 1 north\n", b"\xff", b"\0", b"all"]
    middle = data.draw(st.one_of(st.binary(max_size=20), st.sampled_from(words)))
    refusal = None
    try:
        policy = verify.read_policy(text[:a] + middle + text[b:])
    except verify.Refusal as raised:
        refusal = raised
    if refusal is None:
        assert policy.logs
        verify.quorum_is_met(policy, {})
    else:
        assert refusal.code == "bad_policy"
        assert "\n" not in refusal.reason


def test_files_that_shrink_or_vanish(tmp_path, packages):
    path = tmp_path / "export.zip"
    path.write_bytes(small_files()["zip"])
    package = verify.open_package(str(path))
    path.write_bytes(small_files()["zip"][:400])
    report = verify.examine(package, make.SMALL_POLICY.encode())
    assert (report.verdict, report.code) == ("refused", "bad_zip")
    path.unlink()
    with pytest.raises(OSError):
        verify.examine(package, make.SMALL_POLICY.encode())


# -- The command -------------------------------------------------------------------------------


@pytest.fixture
def given_files(tmp_path):
    (tmp_path / "policy").write_text(make.SMALL_POLICY)
    (tmp_path / "bundle.json").write_bytes(small_files()["bundle"])
    (tmp_path / "export.zip").write_bytes(small_files()["zip"])
    return tmp_path


def run(*arguments: object, folder: Path, env: dict[str, str] | None = None, file: Path = SOURCE):
    done = subprocess.run(
        [sys.executable, "-I", str(file), *map(str, arguments)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **(env or {})},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_it_stands_alone(given_files):
    """Copied elsewhere, without site packages, in a plain locale."""
    copied = given_files / "verify.py"
    copied.write_bytes(SOURCE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", "export.zip", "--policy", "policy"],
        cwd=given_files,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"ACCEPTED" in done.stdout
    assert b"Python alone" in done.stdout


def test_it_is_read_by_old_pythons_and_imports_nothing_foreign():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 9))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign == {"blake3", "cryptography"}
    assert not names & {"socket", "urllib", "http", "subprocess", "pickle", "zipfile", "time"}


def test_exit_statuses(given_files):
    accepted = run("bundle.json", "--policy", "policy", folder=given_files)
    assert accepted[0] == 0
    assert "What this does not show:" in accepted[1]
    refused = run("bundle.json", "--policy", "policy", "--account", "9", folder=given_files)
    assert refused[0] == 1
    assert refused[1].splitlines()[-1].startswith("REFUSED (wrong_account): ")
    os.symlink("/etc/passwd", given_files / "link")
    os.mkfifo(given_files / "pipe")
    (given_files / "folder").mkdir()
    for arguments in (
        ["nothing.json", "--policy", "policy"],
        ["bundle.json", "--policy", "nothing"],
        ["bundle.json", "--policy", "folder"],
        ["bundle.json"],
        ["bundle.json", "--policy", "policy", "--from", "2026-02-30"],
        ["bundle.json", "--policy", "policy", "--from", "yesterday"],
        ["bundle.json", "--policy", "policy", "--account", "-5"],
        ["bundle.json", "--policy", "policy", "--account", "nobody"],
        ["bundle.json", "--policy", "policy", "--trust-bundled-policy"],
        ["export.zip", "--trust-bundled-policy"],
        ["pipe", "--policy", "policy"],
        ["/dev/null", "--policy", "policy"],
    ):
        status, out, err = run(*arguments, folder=given_files)
        assert status == 2, arguments
        assert "Traceback" not in out + err
        assert out.startswith("NOT JUDGED: "), (arguments, out)
        assert len(out.splitlines()) == 1
    for arguments in ([], ["bundle.json", "--polcy", "x"], ["a", "b"]):
        status, out, err = run(*arguments, folder=given_files)
        assert (status, out) == (2, "")
        assert "Traceback" not in err
    for arguments in (["folder", "--policy", "policy"], [given_files, "--policy", "policy"]):
        status, out, err = run(*arguments, folder=given_files)
        assert (status, err) == (1, "")
        assert "(bad_manifest)" in out


def test_json_and_chinese(given_files):
    command = ["bundle.json", "--policy", "policy"]
    status, out, _ = run(*command, "--json", folder=given_files)
    value = json.loads(out)
    assert status == 0
    assert set(value) == {"verdict", "reason", "code", "checks"}
    assert (value["verdict"], value["reason"], value["code"]) == ("accepted", None, None)
    assert all(set(check) == {"name", "ok", "detail"} for check in value["checks"])
    status, out, _ = run(*command, "--lang", "zh", folder=given_files)
    assert status == 0
    assert all(word in out for word in ("通过", "已证明", "未证明"))
    status, out, _ = run(*command, "--lang", "zh", "--newest", folder=given_files)
    assert status == 1
    assert out.splitlines()[-1].startswith("拒绝 (not_newest): 不是最新状态")
    assert json.loads(run("none", "--json", folder=given_files)[1])["verdict"] == "error"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_sentence_can_be_said(lang, packages):
    """Every vector's report in both languages: no check and no code without words."""
    for name in make.CASES:
        case = make.CASES[name][2]()
        if case.policy is None or case.zip is not None or set(case.files) != {"bundle.json"}:
            continue
        report = judged(case.files["bundle.json"], case.policy)
        text = verify.text_of(report, lang)
        assert "\x1b" not in text
        assert verify.json_of(report, lang)


def test_a_reason_is_one_line_that_no_terminal_obeys(packages):
    value = make.small_bundle().value()
    value["items"][0]["\x1b[2J\nACCEPTED: everything holds.\u202e"] = 1
    report = judged(canonical(sealed(value)).encode())
    text = verify.text_of(report, "en")
    assert report.verdict == "refused"
    assert not any((ord(c) < 32 and c != "\n") or c == "\u202e" for c in text)
    assert not any(line.startswith("ACCEPTED") for line in text.splitlines())


def test_pure_by_option_and_by_environment(given_files):
    command = ["bundle.json", "--policy", "policy"]
    assert "the packages blake3" in run(*command, folder=given_files)[1]
    assert "Python alone" in run(*command, "--pure", folder=given_files)[1]
    done = subprocess.run(
        [sys.executable, str(SOURCE), *command],
        cwd=given_files,
        env={**os.environ, "SANYUAN_VERIFY_PURE": "1"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert b"Python alone" in done.stdout


def test_nobody_listens(given_files):
    """A closed output is no pass."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, str(SOURCE), "bundle.json", "--policy", "policy"],
            cwd=given_files,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_the_exact_zip_is_a_zip(packages):
    """Other people's tools read it, and find the same files."""
    case = make.zipped(make.export_of_all())
    with zipfile.ZipFile(io.BytesIO(case.zip)) as file:
        assert file.testzip() is None
        names = file.namelist()
        assert names[:3] == ["manifest.json", "README.txt", "bundle.json"]
        assert {name: file.read(name) for name in names[1:]} == {
            name: data for name, data in make.export_of_all().items() if name != "manifest.json"
        }


def test_one_witness_is_not_counted_for_another_with_the_same_label():
    """A label is cut off for people; keys are told apart by their whole names."""
    names = ["w" * 120 + end for end in ("north", "south")]
    north, south = (verify.Key(name, b"same", verify.WITNESS_KEY, name.encode()) for name in names)
    assert north.label == south.label
    members = {b"north": north, b"south": south}
    policy = verify.Policy([], {}, members, [(b"both", 2, list(members))], b"both")
    one = {north.key_name: verify.Cosignature(north, 1)}
    assert not verify.quorum_is_met(policy, one)
    assert verify.quorum_is_met(policy, one | {south.key_name: verify.Cosignature(south, 1)})
