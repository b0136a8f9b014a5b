"""The codec against a slow reference that is written on the standard library's json."""

from __future__ import annotations

import datetime
import json
import os
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import _codec, layout
from ledger._books import ACCOUNT_DETAILS
from ledger._canonical import NotCanonical, canonical, format_number
from ledger.errors import RequestRefused

KINDS = ("accounts", "transfers", "settings", "definitions", "business_date")
RECORDS = dict(
    zip(
        KINDS,
        ("ACCOUNT", "TRANSFER", "ACCOUNT_SETTINGS", "DEFINITION", "BUSINESS_DATE"),
        strict=True,
    )
)
REQUIRED = {
    "accounts": ("id", "ledger", "code"),
    "transfers": ("id",),
    "settings": ("id", "account_id"),
    "definitions": ("id", "kind"),
    "business_date": ("id", "date"),
}
NOT_IN_EVENTS = {"settings": ("ledger", "code"), "business_date": ("ledger", "code", "flags")}


# ----------------------------------------------------------------------------------------------
# The reference
# ----------------------------------------------------------------------------------------------


class Refused(Exception):
    """A code and, where one is to blame, the event's index."""

    def __init__(self, code: str, event: int | None = None) -> None:
        super().__init__(code, event)
        self.code, self.event = code, event


class Pairs(list[tuple[str, Any]]):
    """An object with its members in order, repeated keys too."""


class Whole(str):
    """A number without fraction and exponent, as written."""


class Fraction(str):
    """A number with one of them, as written."""


def parse(body: bytes) -> Any:
    """The tree of a JSON text; Refused malformed_json for what RFC 8259 or the depth forbids."""

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        tree = json.loads(
            body.decode(),
            object_pairs_hook=Pairs,
            parse_int=Whole,
            parse_float=Fraction,
            parse_constant=constant,
        )
        check(tree, 0)
    except (ValueError, RecursionError):
        raise Refused("malformed_json") from None
    return tree


def check(tree: Any, depth: int) -> None:
    if isinstance(tree, list):
        if depth == 64:
            raise ValueError("deep")
        for item in tree:
            for part in item if isinstance(tree, Pairs) else (item,):
                check(part, depth + 1)
    elif isinstance(tree, str):
        tree.encode()  # a lone surrogate has no UTF-8


def whole(value: Any, limit: int, *, quoted: bool = True, uuid: bool = False) -> int:
    if type(value) is Whole:
        if value.startswith("-") or int(value) > min(limit, 1 << 53):
            raise Refused("out_of_range")
        return int(value)
    if type(value) is not str or not quoted:
        raise Refused("wrong_type")
    if uuid and re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value):
        return int(value.replace("-", ""), 16)
    if not re.fullmatch("0|[1-9][0-9]*", value):
        raise Refused("wrong_type")
    if int(value) > limit:
        raise Refused("out_of_range")
    return int(value)


def time(value: Any) -> int:
    try:
        return whole(value, layout.U64_MAX)
    except Refused as refused:
        if refused.code != "wrong_type" or type(value) is not str:
            raise
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|\+00:00)",
        value,
        re.ASCII,
    )
    if match is None:
        raise Refused("invalid_time")
    try:
        moment = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00")
    except ValueError:
        raise Refused("invalid_time") from None
    if not 1970 <= moment.year <= 2261:
        raise Refused("invalid_time")
    return int(moment.timestamp()) * 10**9 + int((match[3] or "0").ljust(9, "0"))


def flags(value: Any, kind: str) -> int:
    bits = {flag.name: 1 << flag.bit for flag in layout.FLAGS[kind]}
    if type(value) is not list:
        raise Refused("wrong_type")
    mask = 0
    for name in value:
        if type(name) is not str:
            raise Refused("wrong_type")
        if name not in bits or mask & bits[name]:
            raise Refused("unknown_flag")
        mask |= bits[name]
    return mask


def date(value: Any) -> int:
    if type(value) is str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            raise Refused("invalid_time")
        return int(value.replace("-", ""))
    return whole(value, 2**32 - 1, quoted=False)


def field_value(field: layout.Field, record: str, value: Any) -> int:
    bits = {"u16": 16, "u32": 32, "u64": 64, "u128": 128}[field.type]
    if field.name == "flags":
        return flags(value, record)
    if field.name == "kind":
        if type(value) is not str:
            raise Refused("wrong_type")
        if value not in layout.DEFINITION_KINDS:
            raise Refused("unknown_name")
        return layout.DEFINITION_KINDS[value][0]
    if field.name == "date":
        return date(value)
    if field.unit == "ns":
        return time(value)
    is_id = field.type == "u128" and field.unit != "minor units"
    return whole(value, (1 << bits) - 1, quoted=bits >= 64, uuid=is_id)


def reference_number(text: str) -> str:
    exact = Decimal(text)
    value = float(text)
    if value in (float("inf"), float("-inf")) or Decimal(repr(value)) != exact:
        raise NotCanonical
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    shown, point = "".join(map(str, digits)), len(digits) + exponent
    minus = "-" if sign else ""
    if len(digits) <= point <= 21:
        return minus + shown.ljust(point, "0")
    if 0 < point <= 21:
        return minus + shown[:point] + "." + shown[point:]
    if -6 < point <= 0:
        return minus + "0." + "0" * -point + shown
    mantissa = shown[0] + ("." + shown[1:] if shown[1:] else "")
    return f"{minus}{mantissa}e{point - 1:+d}"


def reference_canonical(tree: Any) -> str:
    if isinstance(tree, Pairs):
        if len({key for key, _ in tree}) != len(tree):
            raise NotCanonical
        ordered = sorted(tree, key=lambda pair: pair[0].encode("utf-16-be"))
        return "{" + ",".join(f"{text(k)}:{reference_canonical(v)}" for k, v in ordered) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(reference_canonical, tree)) + "]"
    if isinstance(tree, Whole | Fraction):
        return reference_number(tree)
    return text(tree) if isinstance(tree, str) else json.dumps(tree)


def text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def reference(kind: str, body: bytes) -> tuple[list[dict[str, int]], dict[int, bytes]]:
    """The events and the metadata of a body, or Refused with the code of the first fault."""
    if not body.strip(b" \t\r\n"):
        raise Refused("empty_request")
    tree = parse(body)
    if not isinstance(tree, list):
        raise Refused("wrong_type")
    record = RECORDS[kind]
    table = next(r for r in layout.RECORDS if r.name == record)
    fields = {
        f.name: f
        for f in table.fields
        if not f.name.startswith("reserved") and f.name not in NOT_IN_EVENTS.get(kind, ())
    }
    rows, raw = [], {}
    for index, event in enumerate([tree] if isinstance(tree, Pairs) else tree):
        if index == layout.REQUEST_EVENTS_MAX:
            raise Refused("too_many_events")
        if not isinstance(event, Pairs):
            raise Refused("wrong_type", index)
        row: dict[str, int] = {}
        seen = set()
        for name, value in event:
            if name not in fields and name != "metadata":
                raise Refused("unknown_field", index)
            if name in seen:
                raise Refused("duplicate_field", index)
            seen.add(name)
            if name == "metadata":
                raw[index] = value
                continue
            try:
                row[name] = field_value(fields[name], record, value)
            except Refused as refused:
                raise Refused(refused.code, index) from None
        void = kind == "transfers" and row.get("flags", 0) & 8
        needed = (*REQUIRED[kind], *(("amount",) if kind == "transfers" and not void else ()))
        if not seen.issuperset(needed):
            raise Refused("missing_field", index)
        rows.append(row)
    if not rows:
        raise Refused("empty_request")
    metadata = {}
    for index, value in raw.items():
        try:
            canonical_text = reference_canonical(value).encode()
        except NotCanonical:
            raise Refused("invalid_metadata", index) from None
        if not isinstance(value, Pairs):
            raise Refused("invalid_metadata", index)
        if len(canonical_text) > layout.METADATA_BYTES_MAX:
            raise Refused("metadata_too_large", index)
        if value:
            metadata[index] = canonical_text
    return rows, metadata


def attempt(kind: str, body: bytes) -> Refused | tuple[list[dict[str, int]], dict[int, bytes]]:
    try:
        return reference(kind, body)
    except Refused as refused:
        return refused


def compare(kind: str, body: bytes) -> str:
    """Check that both answer the same; return the code, or "" when both took the body."""
    outcome = attempt(kind, body)
    if isinstance(outcome, Refused):
        with pytest.raises(RequestRefused) as caught:
            _codec.decode_events(kind, body)
        assert caught.value.code == outcome.code, (body, caught.value.detail)
        if outcome.event is not None:
            assert re.match(rf"event {outcome.event}\b", caught.value.detail), caught.value.detail
        return outcome.code
    rows, metadata = outcome
    records, got_metadata, single = _codec.decode_events(kind, body)
    expected = layout.record_array(layout.DTYPES[RECORDS[kind]], list(rows))
    assert records.tobytes() == expected.tobytes(), body
    assert got_metadata == metadata
    assert single == body.lstrip().startswith(b"{")
    return ""


# ----------------------------------------------------------------------------------------------
# Bodies
# ----------------------------------------------------------------------------------------------

EDGES = (0, 1, 2, 9, 10, 2**16, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**64 - 1, 2**64, 10**37)
NUMBERS = st.one_of(
    st.sampled_from((*EDGES, 10**38, 2**127, 2**128 - 1, 2**128, 10**39, 10**45)),
    st.integers(0, 2**128),
    st.integers(0, 10**9),
)
TIMES = st.one_of(
    st.sampled_from(
        (
            "2026-02-28T23:59:59Z",
            "2026-02-29T00:00:00Z",
            "2024-02-29T00:00:00.000000001Z",
            "2000-02-29T12:00:00+00:00",
            "2100-02-29T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01t00:00:00.5z",
            "2261-12-31T23:59:59.999999999Z",
            "2262-01-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "2026-01-01T00:00:00",
        )
    ),
    st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2261, 12, 31)).map(
        lambda t: t.isoformat() + "Z"
    ),
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=True),
    st.integers(-(2**70), 2**70),
    st.text(max_size=6),
    st.sampled_from(("", "-1", "00", "01", "1.0", "1e3", " 1", "1 ", "+1", "0x1", "１", "12a")),
    st.lists(st.sampled_from(("linked", "pending", "history", "nope", 3)), max_size=3),
    st.uuids().map(str),
    st.uuids().map(lambda value: str(value).replace("-", "")),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
    TIMES,
    NUMBERS,
    NUMBERS.map(str),
)
METADATA = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.text(max_size=8), st.floats(), st.integers(-(2**60), 2**60)
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


def good_value(field: layout.Field, record: str) -> st.SearchStrategy[Any]:
    if field.name == "flags":
        names = [flag.name for flag in layout.FLAGS[record]]
        return st.lists(st.sampled_from(names), unique=True, max_size=3)
    if field.name == "kind":
        return st.sampled_from(sorted(layout.DEFINITION_KINDS))
    if field.name == "date":
        return st.dates().map(lambda day: day.isoformat())
    if field.unit == "ns":
        return st.one_of(st.integers(0, 2**64 - 1).map(str), TIMES)
    if field.type in ("u16", "u32"):
        return st.integers(0, 2 ** int(field.type[1:]) - 1)
    top = 2 ** int(field.type[1:]) - 1
    number = st.one_of(st.integers(0, top), st.sampled_from([e for e in EDGES if e <= top]))
    shown = st.one_of(number.map(str), number.filter(lambda n: n <= 2**53))
    if field.type == "u128" and field.unit != "minor units":
        return st.one_of(shown, st.uuids().map(str), st.uuids().map(lambda u: str(u).upper()))
    return shown


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    """A body that is mostly right: valid events, then perhaps one junk value or changed bytes."""
    record = RECORDS[kind]
    table = next(r for r in layout.RECORDS if r.name == record)
    fields = [
        f
        for f in table.fields
        if not f.name.startswith("reserved") and f.name not in NOT_IN_EVENTS.get(kind, ())
    ]
    events = []
    for _ in range(draw(st.integers(1, 3))):
        names = [f.name for f in fields if f.name in (*REQUIRED[kind], "amount")]
        names += draw(st.lists(st.sampled_from([f.name for f in fields]), max_size=5, unique=True))
        event = {
            name: draw(good_value(next(f for f in fields if f.name == name), record))
            for name in draw(st.permutations(sorted(set(names))))
        }
        if draw(st.integers(0, 4)) == 0:
            event["metadata"] = draw(METADATA)
        events.append(event)
    fault = draw(st.integers(0, 5))
    if fault == 0:
        name = draw(st.sampled_from([*(f.name for f in fields), "metadata", "nope", "reserved"]))
        events[-1][name] = draw(JUNK)
    elif fault == 1:
        events[-1].pop(draw(st.sampled_from(sorted(events[-1]))))
    shown: Any = events[0] if len(events) == 1 and draw(st.booleans()) else events
    body = bytearray(
        json.dumps(
            shown,
            ensure_ascii=draw(st.booleans()),
            indent=draw(st.sampled_from((None, 1))),
            separators=draw(st.sampled_from(((",", ":"), (", ", " : ")))),
        ).encode("utf-8", "surrogatepass")
    )
    if fault == 2:
        for _ in range(draw(st.integers(1, 2))):
            at = draw(st.integers(0, len(body) - 1))
            change = draw(st.integers(0, 2))
            if change == 0:
                body[at] = draw(st.sampled_from(b'"\\{}[],:0129eE.-+ntf \x00\x1f\x7f\x80\xc3\xed'))
            elif change == 1:
                del body[at : at + draw(st.integers(1, 9))]
            else:
                body[at:at] = body[at : at + draw(st.integers(1, 30))]
    return bytes(body)


def test_decodes_as_the_reference_does() -> None:
    seen: set[str] = set()

    @settings(max_examples=1250, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), bodies(kind))))
    def run(asked: tuple[str, bytes]) -> None:
        seen.add(compare(*asked))

    run()
    # Which kind sees which is up to the version of the generator.
    assert seen >= {"", "malformed_json", "unknown_field", "wrong_type", "missing_field"}, seen


FIXED = {
    b"": "empty_request",
    b" \n": "empty_request",
    b"[]": "empty_request",
    b"[ ]": "empty_request",
    b"null": "wrong_type",
    b'"x"': "wrong_type",
    b"[[]]": "wrong_type",
    b"[null]": "wrong_type",
    b"{}": "missing_field",
    b"{": "malformed_json",
    b"\xef\xbb\xbf{}": "malformed_json",
    b'{"id":1,"amount":1}': "",
    b'{"id":1,"amount":1}\n': "",
    b'{"id":1,"amount":1},': "malformed_json",
    b'{"id":1,"amount":1}{}': "malformed_json",
    b'{"id":1,"amount":1}\x00': "malformed_json",
    b'{"id":1,"amount":1,}': "malformed_json",
    b'[{"id":1,"amount":1},]': "malformed_json",
    b'{"id":1 "amount":1}': "malformed_json",
    b'{"id":01,"amount":1}': "malformed_json",
    b'{"id":1.,"amount":1}': "malformed_json",
    b'{"id":+1,"amount":1}': "malformed_json",
    b'{"id":NaN,"amount":1}': "malformed_json",
    b'{"id":-Infinity,"amount":1}': "malformed_json",
    b"{'id':1,'amount':1}": "malformed_json",
    b'{id:1,"amount":1}': "malformed_json",
    b'{"id":1,"amount":1} // x': "malformed_json",
    b'{"id":1,"id":1,"amount":1}': "duplicate_field",
    b'{"id":1,"\\u0069d":1,"amount":1}': "duplicate_field",
    b'{"\\u0069d":"\\u0031","am\\u006funt":"2"}': "",
    b'{"id":1,"amount":1,"x\xff":1}': "malformed_json",
    b'{"id":1,"amount":1,"\\ud83d":1}': "malformed_json",
    b'{"id":1,"amount":1,"\\ud83d\\ude00":1}': "unknown_field",
    b'{"id":1,"amount":1,"flags":["\\ud83d"]}': "malformed_json",
    b'{"id":1,"amount":1,"flags":"pending"}': "wrong_type",
    b'{"id":1,"amount":1,"flags":3}': "wrong_type",
    b'{"id":1,"amount":1,"flags":["pending","pending"]}': "unknown_flag",
    b'{"id":1,"amount":1,"flags":["\\u0070ending"]}': "",
    b'{"id":1,"amount":1,"timestamp":-0}': "out_of_range",
    b'{"id":1,"amount":-1}': "out_of_range",
    b'{"id":1,"amount":"-1"}': "wrong_type",
    b'{"id":1,"amount":1e2}': "wrong_type",
    b'{"id":1,"amount":1.0}': "wrong_type",
    b'{"id":1,"amount":-1.5}': "wrong_type",
    b'{"id":1,"amount":true}': "wrong_type",
    b'{"id":1,"amount":null}': "wrong_type",
    b'{"id":1,"amount":"1","ledger":"1"}': "wrong_type",
    b'{"id":1,"amount":9007199254740992}': "",
    b'{"id":1,"amount":9007199254740993}': "out_of_range",
    b'{"id":1,"amount":"340282366920938463463374607431768211455"}': "",
    b'{"id":1,"amount":"340282366920938463463374607431768211456"}': "out_of_range",
    b'{"id":1,"amount":"' + b"9" * 4000 + b'"}': "out_of_range",
    b'{"id":1,"amount":' + b"9" * 4000 + b"}": "out_of_range",
    b'{"id":1,"amount":' + b"9" * 4000 + b".5}": "wrong_type",
    b'{"id":1,"amount":1,"ledger":4294967296}': "out_of_range",
    b'{"id":1,"amount":1,"code":65536}': "out_of_range",
    b'{"id":1,"amount":1,"user_data_64":"18446744073709551616"}': "out_of_range",
    b'{"id":1,"flags":["void_pending_transfer"]}': "",
    b'{"id":1,"flags":["post_pending_transfer"]}': "missing_field",
    b'{"id":1,"amount":1,"metadata":{}}': "",
    b'{"id":1,"amount":1,"metadata":[]}': "invalid_metadata",
    b'{"id":1,"amount":1,"metadata":{"a":1,"a":1}}': "invalid_metadata",
    b'{"id":1,"amount":1,"metadata":{"a":9007199254740993}}': "invalid_metadata",
    b'{"id":1,"amount":1,"metadata":{"a":1e999}}': "invalid_metadata",
    b'{"id":1,"amount":1,"metadata":{"a":"' + b"x" * 4088 + b'"}}': "",
    b'{"id":1,"amount":1,"metadata":{"a":"' + b"x" * 4089 + b'"}}': "metadata_too_large",
    b'{"id":1,"amount":1,"metadata":' + b'{"a":' * 63 + b"1" + b"}" * 63 + b"}": "",
    b'{"id":1,"amount":1,"metadata":' + b'{"a":' * 64 + b"1" + b"}" * 64 + b"}": "malformed_json",
    b"[" * 64 + b"]" * 64: "wrong_type",
    b"[" * 65 + b"]" * 65: "malformed_json",
    b"[" * 100_000: "malformed_json",
    b"[" + b'{"id":1,"amount":1},' * 8189 + b'{"id":1,"amount":1}]': "",
    b"[" + b'{"id":1,"amount":1},' * 8190 + b'{"id":1,"amount":1}]': "too_many_events",
    b"[" + b'{"id":1,"amount":1},' * 8190 + b'{"id":1,"amount":': "malformed_json",
    b'[{"id":1,"amount":1},{"id":2,"amount":"x"},{"id":3,"amount":1,"nope":1}]': "wrong_type",
}


@pytest.mark.parametrize(("body", "code"), FIXED.items(), ids=range(len(FIXED)))
def test_fixed_bodies(body: bytes, code: str) -> None:
    assert compare("transfers", body) == code


def test_a_body_cut_anywhere_is_malformed() -> None:
    body = (
        b'[{"id":"123e4567-e89b-12d3-a456-426614174000","amount":"12","flags":["pending"],'
        b'"timestamp":"2026-03-31T12:34:56.5Z","metadata":{"b":"\\u00e9\xc3\xa9","a":[1.50,true]}}]'
    )
    assert compare("transfers", body) == ""
    for size in range(1, len(body)):
        assert compare("transfers", body[:size]) == "malformed_json"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'[{"id":1,"amount":1},{"id":2,"amount":"x"}]', "event 1, field amount: must be"),
        (b'[{"id":1,"amount":1},{"id":2,"amuont":3}]', "event 1: no field is named 'amuont'"),
        (b'{"id":1,"amount":1,"flags":["pendin"]}', "flags: no flag is named 'pendin'"),
        (b'{"id":1}', "event 0, field amount: is missing"),
        (b'{"id":1,"amount":1', "byte 18: the body ends in the middle"),
        (b'{"id":1;"amount":1}', "byte 7: ';' is not JSON here"),
        (b'{"id":1,"amount":1,"metadata":{"k":1,"k":2}}', 'field metadata: the key "k" appears'),
    ],
)
def test_a_refusal_names_event_and_field(body: bytes, detail: str) -> None:
    with pytest.raises(RequestRefused, match=re.escape(detail)):
        _codec.decode_events("transfers", body)


# ----------------------------------------------------------------------------------------------
# Canonical form
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "shown"),
    [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xC340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x44B52D02C7E14AF7, "1.0000000000000001e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF4F, "999999999999999900000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555553, "333333333.3333332"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_rfc_8785_lists_them(bits: int, shown: str) -> None:
    assert format_number(np.uint64(bits).view("f8")) == shown


def test_keys_are_sorted_by_utf16_and_escapes_are_the_fewest() -> None:
    written = (
        '{"\\u20ac":"Euro","\\r":"CR","\\ufb33":"Dalet","1":"One","\\ud83d\\ude00":"Smile",'
        '"\\u0080":"Control","\\u00f6":"O"}'
    )
    assert canonical(written.encode()).decode() == (
        '{"\\r":"CR","1":"One","\u0080":"Control","ö":"O","€":"Euro","😀":"Smile","\ufb33":"Dalet"}'
    )
    assert canonical(rb' [ "\u0041\/\u000F\n\"\\" , 1E2 , -0.0, 1.50, null ] ') == (
        rb'["A/\u000f\n\"\\",100,0,1.5,null]'
    )


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(METADATA, st.booleans())
@example({"a": 1e21, "b": 1e-7, "c": 123456789012345680000.0}, True)
def test_canonical_form_is_the_reference_s_and_stable(
    tree: dict[str, Any], ascii_only: bool
) -> None:
    try:
        body = json.dumps(tree, ensure_ascii=ascii_only).encode()
        expected = reference_canonical(parse(body)).encode()
    except (Refused, NotCanonical, UnicodeEncodeError):
        with pytest.raises(NotCanonical):
            canonical(json.dumps(tree, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
        return
    assert canonical(body) == expected
    assert canonical(expected) == expected


# ----------------------------------------------------------------------------------------------
# Writing, and the client's half
# ----------------------------------------------------------------------------------------------


def random_records(kind: str, count: int) -> np.ndarray:
    """Records whose bytes are random, but for flags (known bits) and what an event leaves zero."""
    rng = np.random.default_rng(7)
    schema = _codec.SCHEMAS[kind]
    size = schema.dtype.itemsize
    records = rng.integers(0, 256, count * size, dtype="u1").view(schema.dtype)
    for field in schema.fields:
        if field["type"] == "flags":
            records[field["name"]] &= (1 << len(field["names"])) - 1
        elif field["type"] == "enum":
            records[field["name"]] = 1
        elif field["type"] == "date":
            records[field["name"]] %= 10**8
        elif field["type"] != "raw" and field["width"] == 16:
            records[field["name"]]["hi"] >>= rng.integers(0, 64, count).astype("u8")
            records[field["name"]]["hi"][::3] = 0
            records[field["name"]]["lo"][::3] >>= rng.integers(0, 64, len(records[::3])).astype(
                "u8"
            )
    for name in schema.unwritten:
        records[name] = 0
    records[count // 2 :: 2][[n for n in ("user_data_64",) if n in schema.dtype.names]] = 0
    return records


@pytest.mark.parametrize("kind", KINDS)
def test_events_survive_the_way_to_json_and_back(kind: str) -> None:
    records = random_records(kind, 500)
    metadata = {3: b'{"a":1}', 499: b'{"b":"\xc3\xa9"}'}
    body = _codec.encode_events(kind, records, metadata=metadata)
    decoded, got, single = _codec.decode_events(kind, body)
    assert decoded.tobytes() == records.tobytes()
    assert got == metadata
    assert not single
    assert compare(kind, body) == ""


def test_what_json_cannot_say_is_not_dropped() -> None:
    for name, value in (("flags", 1 << 9), ("flags", 1 << 15)):
        records = np.zeros(2, layout.TRANSFER)
        records[1][name] = value
        with pytest.raises(ValueError, match="only the binary form"):
            _codec.encode_events("transfers", records)
    records = np.zeros(1, layout.ACCOUNT)
    records["reserved"] = 1
    with pytest.raises(ValueError, match="reserved"):
        _codec.encode_events("accounts", records)
    with pytest.raises(TypeError):
        _codec.encode_events("accounts", np.zeros(1, layout.RESULT))


@pytest.mark.parametrize("kind", ["accounts", "transfers"])
def test_records_are_written_in_full_and_read_back(kind: str) -> None:
    records = random_records(kind, 300)
    records["timestamp"] >>= 1
    found = np.ones(300, "?")
    found[::7] = False
    metadata = {1: b'{"x":[1,2]}'}
    extras = [b'"balance":"%d"' % i if i % 2 else b"" for i in range(300)]
    body = _codec.encode_records(kind, records, found=found, metadata=metadata, extras=extras)
    rows = json.loads(body)
    for index, row in enumerate(rows):
        if not found[index]:
            assert row is None
            continue
        expected = layout.record_dict(records[index])
        for name, value in row.items():
            if name == "flags":
                record = RECORDS[kind]
                assert value == layout.flag_names(record, int(expected["flags"]))
            elif name == "time":
                seconds, fraction = divmod(int(expected["timestamp"]), 10**9)
                day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
                assert value == f"{day.isoformat()}.{fraction:09d}Z"
            elif name == "balance":
                assert value == str(index)
            elif name == "metadata":
                assert value == {"x": [1, 2]}
            else:
                wide = layout.DTYPES[RECORDS[kind]][name].itemsize >= 8
                assert value == (str(expected[name]) if wide else expected[name])
    page = b'{"next":null,"new":{"a":[]},"data":' + body + b"}"
    back, back_found, back_metadata, others = _codec.decode_page(kind, "data", page)
    if kind == "accounts":
        records["reserved"] = 0
    records[~found] = np.zeros((), records.dtype)
    assert back.tobytes() == records.tobytes()
    assert back_found.tolist() == found.tolist()
    assert back_metadata == metadata
    assert others == {"next": b"null", "new": b'{"a":[]}'}


def test_lines_are_one_object_each() -> None:
    body = _codec.encode_records("change_events", random_change_events(), lines=True)
    lines = body.splitlines()
    assert len(lines) == 5
    for index, line in enumerate(lines):
        row = json.loads(line)
        assert row["type"] == list(layout.CHANGE_EVENT_TYPES)[index]
        assert row["debit_account_flags"] == ["history"]


def random_change_events() -> np.ndarray:
    events = np.zeros(5, layout.CHANGE_EVENT)
    events["type"] = range(5)
    events["debit_account_flags"] = layout.flag_mask("ACCOUNT", "history")
    return events


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_has_its_name_and_number(kind: str) -> None:
    table = {"accounts": "ACCOUNT", "transfers": "TRANSFER"}.get(kind, "ADMINISTRATIVE")
    statuses = layout.STATUS_NAMES[table]
    results = np.zeros(len(statuses), layout.RESULT)
    results["status"] = list(statuses)
    results["timestamp"] = range(2**63, 2**63 + len(statuses))
    body = _codec.encode_results(kind, results, explanations={2: b'{"rule":"r"}'})
    rows = json.loads(body)["results"]
    assert [row["status"] for row in rows] == list(statuses.values())
    assert rows[2]["explanation"] == {"rule": "r"}
    back, indexes = _codec.decode_results(body)
    assert back.tobytes() == results.tobytes()
    assert indexes.tolist() == list(range(len(statuses)))
    refused, indexes = _codec.decode_results(
        _codec.encode_results(kind, results, only_refused=True)
    )
    assert layout.CREATED not in refused["status"]
    assert indexes.tolist() == list(range(1, len(statuses)))
    results["status"] = 0
    with pytest.raises(AssertionError):
        _codec.encode_results(kind, results)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'["1",2,"123e4567-e89b-12d3-a456-426614174000"]', ""),
        (b'{"ids":["1",2,"123E4567-E89B-12D3-A456-426614174000"]}', ""),
        (b"", "empty_request"),
        (b"[]", "empty_request"),
        (b'{"ids":[]}', "empty_request"),
        (b"{}", "missing_field"),
        (b'{"id":[1]}', "unknown_field"),
        (b'{"ids":[1],"x":2}', "unknown_field"),
        (b'{"ids":1}', "wrong_type"),
        (b"7", "wrong_type"),
        (b'["x"]', "wrong_type"),
        (b"[1,null]", "wrong_type"),
        (b"[1,-1]", "out_of_range"),
        (b'["340282366920938463463374607431768211456"]', "out_of_range"),
        (b"[1,", "malformed_json"),
        (b"[1,]", "malformed_json"),
        (b"[1] 2", "malformed_json"),
        (b'{"ids":[1]', "malformed_json"),
        (b"[" + b"1," * 8189 + b"1]", ""),
        (b"[" + b"1," * 8190 + b"1]", "too_many_events"),
    ],
)
def test_ids(body: bytes, code: str) -> None:
    if code:
        with pytest.raises(RequestRefused) as caught:
            _codec.decode_ids(body)
        assert caught.value.code == code
        return
    ids = _codec.decode_ids(body)
    assert _codec.decode_ids(_codec.encode_ids(ids)).tolist() == ids.tolist()
    if len(ids) == 3:
        assert [layout.to_int(i) for i in ids] == [1, 2, 0x123E4567E89B12D3A456426614174000]


def test_objects_with_raw_members() -> None:
    records, raw, given = _codec.decode_object(
        "query", b'{"type":"transfers","limit":5,"flags":["reversed"],"cursor":"x"}'
    )
    assert given == {"type", "limit", "flags", "cursor"}
    assert raw == {"type": b'"transfers"', "cursor": b'"x"'}
    assert layout.record_dict(records[0])["limit"] == 5
    for body, code in (
        (b"[]", "wrong_type"),
        (b"", "empty_request"),
        (b'{"limit":1}', "missing_field"),
        (b'{"type":1,"limit":"1"}', "wrong_type"),
        (b'{"type":1}}', "malformed_json"),
    ):
        with pytest.raises(RequestRefused) as caught:
            _codec.decode_object("query", body)
        assert caught.value.code == code
        assert "event" not in caught.value.detail


def test_binary_bodies() -> None:
    records = random_records("transfers", 3)
    assert _codec.decode_binary("transfers", records.tobytes()).tobytes() == records.tobytes()
    for body, code in (
        (b"", "empty_request"),
        (bytes(127), "wrong_record_size"),
        (bytes(129), "wrong_record_size"),
        (bytes(128 * 8191), "too_many_events"),
    ):
        with pytest.raises(RequestRefused) as caught:
            _codec.decode_binary("transfers", body)
        assert caught.value.code == code
    assert len(_codec.decode_binary("accounts", bytes(128 * 8190))) == 8190
    with pytest.raises(RequestRefused):
        _codec.decode_results_binary(bytes(17))


def test_ids_and_times_of_paths_and_queries() -> None:
    assert _codec.parse_id("123e4567-e89b-12d3-a456-426614174000") == (
        0x123E4567E89B12D3A456426614174000
    )
    assert _codec.parse_id(str(2**128 - 1)) == 2**128 - 1
    assert _codec.parse_time("2026-03-31T12:34:56.5Z") == 1774960496500000000
    assert _codec.parse_time("7") == 7
    assert _codec.format_time(1774960496500000000) == "2026-03-31T12:34:56.500000000Z"
    for wrong in ("", "01", "-1", "1.0", "x", "2026-03-31", str(2**128), "\udcff"):
        with pytest.raises(ValueError):
            _codec.parse_id(wrong)
        with pytest.raises(ValueError):
            _codec.parse_time(wrong)


@pytest.mark.skipif("SANYUAN_DEBUG" in os.environ, reason="sanitizers keep what is freed")
def test_decoding_keeps_nothing() -> None:
    """A thousand refusals with slices in hand leave no memory behind."""
    import resource

    body = b"[" + b'{"id":1,"amount":1,"metadata":{"a":1}},' * 2000 + b'{"id":1}]'
    for warm in range(2):
        for _ in range(150):
            with pytest.raises(RequestRefused):
                _codec.decode_events("transfers", body)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if warm == 0:
            before = used
    assert used - before < 4096


@pytest.mark.parametrize(
    ("account", "details", "credit_normal", "balance", "available"),
    [
        ({"debits_posted": 7, "credits_posted": 3}, {}, False, "4", None),
        ({"debits_posted": 7, "credits_posted": 3}, {}, True, "-4", None),
        ({"debits_posted": 2**128 - 1}, {}, True, str(1 - 2**128), None),
        ({"flags": 2, "credits_posted": 9, "debits_posted": 2}, {}, True, "7", "7"),
        ({"flags": 2, "credits_posted": 9, "debits_pending": 4}, {}, True, "9", "5"),
        ({"flags": 2, "credits_posted": 9, "credits_pending": 4}, {}, True, "9", "9"),
        ({"flags": 4, "debits_posted": 9, "credits_pending": 4}, {}, False, "9", "5"),
        ({"flags": 4 | 32, "debits_posted": 9}, {}, False, "9", "0"),
        ({"credits_posted": 9}, {"settings": 1, "overdraft": 5}, True, "9", "14"),
        ({"debits_posted": 9}, {"settings": 1, "overdraft": 5}, True, "-9", "0"),
        ({"debits_posted": 9}, {"settings": 1, "overdraft": 50}, True, "-9", "41"),
        (
            {"credits_posted": 9},
            {"settings": 1, "overdraft": 2**128 - 1},
            True,
            "9",
            str(2**128 - 1),
        ),
        ({"credits_posted": 9}, {"settings": 5, "overdraft": 5}, True, "9", "0"),
        ({"credits_posted": 9}, {"settings": 2, "ceiling": 100}, True, "9", "91"),
    ],
)
def test_where_an_account_stands(
    account: dict[str, int],
    details: dict[str, int],
    credit_normal: bool,
    balance: str,
    available: str | None,
) -> None:
    records = layout.record_array(layout.ACCOUNT, [{"id": 1, **account}, {"id": 2}])
    details_rows = layout.record_array(ACCOUNT_DETAILS, [{"entry_count": 3, **details}, {}])
    rows = json.loads(
        _codec.encode_accounts(records, details_rows, [credit_normal, True], found=[True, False])
    )
    assert rows[1] is None
    row = rows[0]
    assert (row["balance"], row["available"]) == (balance, available)
    assert row["normal_side"] == ("credit" if credit_normal else "debit")
    assert row["entry_count"] == "3"
    assert row["overdraft"] == str(details.get("overdraft", 0))
    assert row["settings"] == layout.flag_names("ACCOUNT_SETTINGS", details.get("settings", 0))
