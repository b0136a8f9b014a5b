"""The page judges as verify.py does: same verdicts, codes, checks and words."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.proof import verify
from tests.browser.chromium import Page
from tests.browser.evidence import (
    BYTES,
    Evidence,
    ask,
    ask_all,
    ask_python,
    everything,
    resealed,
    smallest,
    statement_of,
)
from tests.model.proofs import b64, canonical, in_order, manifest, zip_bytes

VECTORS = Path(__file__).parents[1] / "vectors" / "proofs"


@pytest.fixture(autouse=True)
def packages() -> Iterator[None]:
    """verify.py with the packages: it is asked the same thousands of times."""
    before = verify.CRYPTOGRAPHY
    verify.choose(pure=False)
    yield
    verify.CRYPTOGRAPHY = before


def outcome(answer: dict[str, Any]) -> tuple[str, str | None]:
    return answer["verdict"], answer["code"]


# ----------------------------------------------------------------------------------------------
# The same words
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", ["zip", "folder", "lone bundle"])
def test_everything_is_judged_word_for_word_as_by_verify(
    page: Page, form: str, language: str
) -> None:
    evidence = everything(full=form != "lone bundle")  # which cannot have a state.bin
    zip = {"zip": evidence.zip, "folder": None, "lone bundle": evidence.json}[form]
    files = evidence.files if form == "folder" else None
    found = ask(page, zip, evidence.policy, files=files, language=language)
    expected = ask_python(zip, evidence.policy, files=files, language=language)
    assert found == expected
    assert found["verdict"] == "accepted", found["reason"]
    assert len(found["checks"]) > 30


def test_every_vector(page: Page) -> None:
    vectors = [json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))]
    if not vectors:
        pytest.skip("there are no vectors")
    cases = []
    for vector in vectors:
        files = {}
        for name, text in vector["files"].items():
            plain, _, form = name.partition(":")
            data = bytes(text, "utf-8") if not form and name != "zip" else decoded(text)
            files[plain] = data
        options = vector["arguments"]
        expectations = {
            "accounts": [str(one) for one in options.get("account", [])],
            "trustBundledPolicy": options.get("trust-bundled-policy", False),
            **{
                name: options[name]
                for name in ("from", "to", "origin", "newest")
                if name in options
            },
        }
        assert set(options) <= {"account", "trust-bundled-policy", *expectations}
        alone = files.get("zip") or (files["bundle.json"] if len(files) == 1 else None)
        cases.append((alone, None if alone else files, vector["policy"], expectations))
    answers = [one for at in range(0, len(cases), 40) for one in ask_all(page, cases[at : at + 40])]
    wrong = [
        (vector["name"], vector["code"], answer["code"], answer["reason"])
        for vector, answer in zip(vectors, answers, strict=True)
        if outcome(answer) != ("accepted" if vector["accept"] else "refused", vector["code"])
    ]
    assert wrong == []


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


# ----------------------------------------------------------------------------------------------
# Changed evidence
# ----------------------------------------------------------------------------------------------


def changed(bundle: Any, chance: random.Random) -> Any:
    """A bundle with one value somewhere in it made another, of its own type or not."""
    bundle = copy.deepcopy(bundle)
    while True:
        parent, key, value = None, None, bundle
        while isinstance(value, dict | list) and value:
            if parent is not None and chance.random() < 0.1:
                break
            parent = value
            key = chance.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
            value = value[key]
        new = another(value, chance)
        if new != value:
            parent[key] = new
            return bundle
        if isinstance(parent, list):
            parent.insert(key, value)
            return bundle


def another(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.2:
        return chance.choice([None, [], {}, "", 0, True, "x", 2**53 - 1, [1], {"a": 1}, "é\u2028"])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + chance.choice([-1, 1, 256]))
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, dict):
        return {**value, "more": 1}
    if not isinstance(value, str) or not value:
        return value
    try:
        data = bytearray(decoded(value))
        if data and b64(bytes(data)) == value and chance.random() < 0.8:
            bit = chance.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            ends = [data, data[: len(data) // 2], data + bytes(chance.choice([1, 16, 32, 92]))]
            return b64(bytes(chance.choice(ends)))
    except ValueError:
        pass
    place = chance.randrange(len(value))
    letter = chance.choice("0123456789 \n+-=—aZ\u2028\x85\x7f中")
    return value[:place] + chance.choice(["", letter, letter + value[place]]) + value[place + 1 :]


def is_worded_alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    if found["code"] == expected["code"] == "not_canonical":  # each says where in its own way
        return True
    return found == expected


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 600), pytest.param(2, 20_000, marks=pytest.mark.long)]
)
def test_changed_bundles_are_judged_word_for_word_as_by_verify(
    page: Page, seed: int, count: int
) -> None:
    """Digests made right again, so that the change is met by the check that it breaks."""
    chance = random.Random(seed)
    evidence = everything(full=False)
    bundles = [resealed(changed(evidence.bundle.value(), chance)) for _ in range(count)]
    codes = set()
    for at in range(0, count, 100):
        some = bundles[at : at + 100]
        answers = ask_all(page, [(one, None, evidence.policy, {}) for one in some])
        for bundle, found in zip(some, answers, strict=True):
            expected = ask_python(bundle, evidence.policy)
            assert is_worded_alike(found, expected), bundle
            codes.add(found["code"])
    assert len(codes) > 12, codes


@pytest.mark.parametrize("seed", [1])
def test_changed_policies_are_judged_as_by_verify(page: Page, seed: int) -> None:
    evidence = smallest()
    chance = random.Random(seed)
    key = evidence.ledger.log.vkey
    base = everything().policy + f"log {key}\n# sanyuan-range {key.rsplit('+', 1)[0]} 1 -\n"
    policies = [evidence.policy.encode(), base.encode(), base.rstrip("\n").encode(), b""]
    for _ in range(300):
        data = bytearray(base.encode())
        for _ in range(chance.choice([1, 1, 2])):
            place = chance.randrange(len(data))
            data[place : place + chance.choice([0, 1, 1])] = chance.choice(
                [b"", b"\n", b" ", b"\t", b"#", b"2", b"none", b"all", b"\xff", b"\r", b"\x7f"]
            )
        policies.append(bytes(data))
    answers = ask_all(page, [(evidence.json, None, policy, {}) for policy in policies])
    for policy, found in zip(policies, answers, strict=True):
        assert found == ask_python(evidence.json, policy), policy
    assert {found["code"] for found in answers} >= {None, "bad_policy", "quorum_not_met"}


def flips(page: Page, data: bytes, policy: str, bits: range | list[int]) -> list[list[Any]]:
    """Return [bit, verdict, code] of each flipped bit that is not refused, and all codes met."""
    return list(
        page.run(
            f"""(async () => {{
                {BYTES}
                const data = bytes({json.dumps(b64(data))}), bad = [], codes = new Set();
                for (const bit of {json.dumps(list(bits))}) {{
                  const changed = data.slice();
                  changed[bit >> 3] ^= 1 << (bit & 7);
                  const answer = await sanyuan.verify({{ zip: changed,
                    policy: {json.dumps(policy)} }});
                  codes.add(answer.code);
                  if (answer.verdict !== "refused") bad.push([bit, answer.verdict, answer.reason]);
                }}
                return [bad, [...codes]];
            }})()""",
            timeout_s=600,
        )
    )


def test_every_flipped_bit_of_a_bundle_is_refused(page: Page) -> None:
    evidence = smallest()
    bad, codes = flips(page, evidence.json, evidence.policy, range(8 * len(evidence.json)))
    assert bad == []
    assert {"not_canonical", "bad_digest", "malformed"} <= set(codes)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_flipped_bits_of_a_zip_are_refused(page: Page, step: int) -> None:
    evidence = smallest()
    bits = range(step // 2, 8 * len(evidence.zip), step)
    bad, codes = flips(page, evidence.zip, evidence.policy, bits)
    assert bad == []
    assert {"bad_zip", "not_canonical"} <= set(codes)


# ----------------------------------------------------------------------------------------------
# The zip
# ----------------------------------------------------------------------------------------------


def remade(evidence: Evidence, change: dict[str, bytes | None]) -> bytes:
    """The zip with other files and a manifest that fits them."""
    files = {**evidence.files, **change}
    kept = {name: data for name, data in files.items() if data is not None}
    kept["manifest.json"] = manifest(kept, evidence.ledger.origin)
    return zip_bytes(in_order(kept))


def reordered(files: dict[str, bytes], first: str) -> bytes:
    return zip_bytes({first: files[first], **files})


def zips() -> dict[str, tuple[bytes, str]]:
    evidence = everything()
    files, plain = evidence.files, evidence.zip
    table = files["trial-balance.csv"]
    statement = files["statement-1.csv"]
    end = plain.rindex(b"PK\x05\x06")
    return {
        "bytes after the end": (plain + b"\0", "trailing_bytes"),
        "a comment": (plain[:-2] + b"\1\0x", "bad_zip"),
        "bytes before the directory": (plain[:end] + b"x" + plain[end:], "bad_zip"),
        "cut off": (plain[: len(plain) // 2], "bad_zip"),
        "nothing but the end": (plain[end:], "bad_zip"),
        "another order": (reordered(files, "bundle.json"), "bad_zip"),
        "a name with a folder": (zip_bytes({**files, "../x": b""}), "bad_zip"),
        "a hidden name": (zip_bytes({**files, ".x": b""}), "bad_zip"),
        "a long name": (zip_bytes({**files, "z" * 101: b""}), "bad_zip"),
        "a file that is not listed": (zip_bytes({**files, "zz": b""}), "bad_manifest"),
        "a file of nothing": (remade(evidence, {"zz": b""}), "unused_part"),
        "no README": (zip_bytes({n: files[n] for n in files if n != "README.txt"}), "bad_zip"),
        "no table": (remade(evidence, {"trial-balance.csv": None}), "bad_csv"),
        "another table": (remade(evidence, {"trial-balance.csv": table + b"\n"}), "bad_csv"),
        "another amount": (
            remade(evidence, {"statement-1.csv": statement.replace(b",3000,", b",3001,")}),
            "bad_csv",
        ),
        "half a statement": (remade(evidence, {"statement-1.csv": statement[:300]}), "bad_csv"),
        "no state": (remade(evidence, {"state.bin": None}), "bad_manifest"),
        "another checkpoint": (remade(evidence, {"checkpoint": b"x"}), "bad_manifest"),
        "another tlog-proof": (
            remade(evidence, {"interval-1.tlog-proof": files["interval-0.tlog-proof"]}),
            "bad_manifest",
        ),
        "a longer state": (remade(evidence, {"state.bin": files["state.bin"] + b"\0"}), "bad_sums"),
        "a changed state": (
            remade(evidence, {"state.bin": files["state.bin"][:-300] + bytes(300)}),
            "bad_sums",
        ),
    }


def test_zips_of_another_form_or_content(page: Page) -> None:
    cases = zips()
    answers = ask_all(page, [(data, None, everything().policy, {}) for data, _ in cases.values()])
    for (name, (data, code)), found in zip(cases.items(), answers, strict=True):
        assert outcome(found) == ("refused", code), (name, found["reason"])
        assert found == ask_python(data, everything().policy), name


# ----------------------------------------------------------------------------------------------
# Hostile files, policies and expectations
# ----------------------------------------------------------------------------------------------


def test_hostile_files_give_one_line(page: Page) -> None:
    policy = smallest().policy
    value = smallest().bundle.value()
    deep: Any = 0
    for _ in range(9):
        deep = [deep]
    hostile = [
        b"",
        b"P",
        b"PK",
        b"PK\x03\x04",
        b"{}",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xef\xbb\xbf{}\n",
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"items":[' + b"[]," * (1 << 21) + b"[]]}\n",
        canonical({"items": deep}).encode(),
        b'{"a":1e999}\n',
        b'{"a":NaN}\n',
        b'{"a":-0}\n',
        b'{"a":9007199254740992}\n',
        b'{"a":"\xff"}\n',
        b'{"a":"\xed\xa0\x80"}\n',
        b'{"a":"\\ud800"}\n',
        b'{"a":1,"a":1}\n',
        b'{"__proto__":{"format":1}}\n',
        resealed({**value, "__proto__": {}}),
        resealed({**value, "constructor": 1}),
        resealed({**value, "items": [{"type": "constructor"}]}),
        resealed({**value, "items": [{"type": "__proto__"}]}),
        resealed({**value, "items": [{"type": ["entry"]}]}),
        resealed({**value, "items": []}),
        resealed({**value, "origin": "x" * 100_000}),
        resealed({**value, "origin": "<img src=x onerror=alert(1)>\u202e"}),
        resealed({**value, "checkpoint": "\n" * 200_000}),
        resealed({**value, "checkpoint": value["checkpoint"] + "— x AAAAAAA=\n" * 200}),
        hashlib.sha512(b"noise").digest() * 2000,
    ]
    page.events("Runtime.exceptionThrown", forget=True)
    answers = ask_all(page, [(data, None, policy, {}) for data in hostile])
    for data, found in zip(hostile, answers, strict=True):
        assert found["verdict"] == "refused", (data[:80], found["reason"])
        assert "\n" not in found["reason"]
        assert len(found["reason"]) < 400
        assert found["code"] == ask_python(data, policy)["code"], (data[:80], found["reason"])
    assert page.events("Runtime.exceptionThrown") == []


def test_what_cannot_be_judged(page: Page) -> None:
    evidence = smallest()
    nothing = [
        ask(page, evidence.json),
        ask(page, evidence.json, evidence.policy, accounts=["x"]),
        ask(page, evidence.json, evidence.policy, **{"from": "2026-02-30"}),
        ask(page, evidence.json, evidence.policy, to="yesterday"),
        ask(page, evidence.json, evidence.policy, trustBundledPolicy=True),
        ask(page, evidence.json, trustBundledPolicy=True),
    ]
    for found in nothing:
        assert found["verdict"] == "error"
        assert found["code"] is None
        assert found["reason"]
        assert not found["proven"]


def test_the_bundled_policy_counts_only_when_it_is_trusted(page: Page) -> None:
    evidence = everything()
    assert outcome(ask(page, evidence.zip)) == ("refused", "policy_not_trusted")
    found = ask(page, evidence.zip, trustBundledPolicy=True)
    assert outcome(found) == ("accepted", None)
    assert found["notShown"][0].startswith("WHO SIGNED")
    found = ask(page, evidence.zip, trustBundledPolicy=True, language="zh")
    assert found["notShown"][0].startswith("签名者是谁")


def test_expectations(page: Page) -> None:
    evidence = everything()
    for expectations, code in (
        ({"accounts": ["1", "2"]}, None),
        ({"accounts": ["2", "1", "1"]}, None),
        ({"accounts": ["1"]}, "wrong_account"),
        ({"accounts": ["1", "2", "3"]}, "wrong_account"),
        ({"from": "2026-01-06"}, None),
        ({"from": "2026-01-05"}, "wrong_period"),  # the older state is within that day
        ({"from": "2026-01-04"}, "wrong_period"),
        ({"to": "2026-01-05"}, None),
        ({"to": "2026-01-06"}, "wrong_period"),
        ({"origin": "bank.example/log"}, None),
        ({"origin": "bank.example/log2"}, "wrong_log"),
        ({"newest": True}, None),
    ):
        found = ask(page, evidence.zip, evidence.policy, **expectations)
        assert found["code"] == code, expectations
    found = ask(page, statement_of(20).json, statement_of(20).policy, newest=True)
    assert outcome(found) == ("refused", "not_newest")


# ----------------------------------------------------------------------------------------------
# Time
# ----------------------------------------------------------------------------------------------


def test_a_statement_of_a_thousand_entries_takes_well_under_two_seconds(page: Page) -> None:
    evidence = statement_of(1000)
    assert len(evidence.json) > 200_000
    start = time.perf_counter()
    found = ask(page, evidence.json, evidence.policy)
    elapsed_s = time.perf_counter() - start
    assert found["verdict"] == "accepted", found["reason"]
    assert "These 1001 entries are all" in found["proven"][-1]
    assert elapsed_s < 2


def test_long_checks_tell_how_far_they_are_and_let_the_page_breathe(page: Page) -> None:
    evidence = statement_of(4000)
    shares, longest = page.run(
        f"""(async () => {{
            {BYTES}
            const bundle = bytes({json.dumps(b64(evidence.json))}), seen = [];
            let last = performance.now(), longest = 0, isDone = false;
            const beat = () => {{
              longest = Math.max(longest, performance.now() - last);
              last = performance.now();
              if (!isDone) setTimeout(beat, 0);
            }};
            beat();
            for (let round = 0; round < 5; round++) {{
              await sanyuan.verify({{ zip: new Blob([bundle]),
                policy: {json.dumps(evidence.policy)},
                onProgress: ({{ step, share }}) => seen.push([step, share]) }});
            }}
            isDone = true;
            return [seen, longest];
        }})()"""
    )
    assert any(step == "item 1: statement" and 0 < (share or 0) < 1 for step, share in shares)
    assert longest < 1000
