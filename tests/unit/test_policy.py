"""Policies: who is trusted, what is enough, and files that are refused."""

import contextlib
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.proof import notes, verify
from ledger.proof.policy import BadPolicy, Policy, QuorumNotMet, parse_policy, policy_of_logs


def log_key(number: int, name: str = "example.com/log") -> notes.SigningKey:
    return notes.SigningKey(name, notes.ED25519, bytes([number]) * 32)


def witness_key(number: int) -> notes.SigningKey:
    return notes.SigningKey(f"example.com/w{number}", notes.COSIGNATURE, bytes([100 + number]) * 32)


LOG, LATER_LOG = log_key(1), log_key(2)
KEYS = {f"X{n}": witness_key(n) for n in (1, 2, 3)} | {f"Y{n}": witness_key(n + 3) for n in (1, 2)}
WITNESSES = "".join(f"witness {name} {key.verifier}\n" for name, key in KEYS.items())
NESTED = (
    f"# trust nobody else\n\n\tlog {LOG.verifier} https://log.example.com/ \n"
    f"{WITNESSES}"
    "group X 2 X1 X2 X3\n  group Y any Y1 Y2\ngroup both all X Y\nquorum both\n"
)


def policy(text: str) -> Policy:
    return parse_policy(text.encode())


def checkpoint(size: int = 7, key: notes.SigningKey = LOG) -> notes.Note:
    return notes.sign_checkpoint(key, notes.Checkpoint(key.name, size, bytes(32)))


def cosigned(note: notes.Note, *names: str) -> notes.Note:
    return note.with_signatures(notes.cosign(KEYS[name], note.text, time_s=9) for name in names)


def test_nested_quorum_as_in_the_specification() -> None:
    nested = policy(NESTED)
    for present in product((False, True), repeat=5):
        names = [name for name, there in zip(KEYS, present, strict=True) if there]
        enough = sum(present[:3]) >= 2 and any(present[3:])
        assert nested.quorum_met(names) == enough
    assert nested.logs[0].url == "https://log.example.com/"
    assert [witness.name for witness in nested.needed_witnesses] == list(KEYS)


def test_a_group_named_by_no_quorum_counts_for_nothing() -> None:
    one = policy(
        f"log {LOG.verifier}\n{WITNESSES}group other all X2 X3\nquorum X1\n",
    )
    assert not one.quorum_met(["X2", "X3", "Y1", "Y2"])
    assert not one.quorum_met(["other"])
    assert one.quorum_met(["X1"])
    assert [witness.name for witness in one.needed_witnesses] == ["X1"]


def test_checkpoint_is_approved_by_log_and_quorum_only() -> None:
    nested = policy(NESTED)
    note = checkpoint()
    approved = nested.approve(bytes(cosigned(note, "X1", "X3", "Y2")))
    assert approved.checkpoint.size == 7
    assert approved.log.key == LOG.verifier
    assert [witness.name for witness in approved.cosignatures] == ["X1", "X3", "Y2"]
    with pytest.raises(QuorumNotMet, match="both is not met: X1, X2, X3 cosigned"):
        nested.approve(cosigned(note, "X1", "X2", "X3"))
    with pytest.raises(QuorumNotMet, match="nobody"):
        nested.approve(note)


def test_witnesses_of_another_checkpoint_do_not_count() -> None:
    other = checkpoint(size=8)
    stolen = checkpoint().with_signatures(cosigned(other, "X1", "X2", "Y1").signatures[1:])
    with pytest.raises(notes.BadSignature, match="does not verify"):
        policy(NESTED).approve(stolen)


def test_quorum_of_witnesses_without_the_log_is_refused() -> None:
    signed = cosigned(checkpoint(), "X1", "X2", "Y1")
    with pytest.raises(notes.BadSignature, match="no listed key"):
        policy(NESTED).approve(notes.Note(signed.text, signed.signatures[1:]))
    stranger = cosigned(checkpoint(key=log_key(9)), "X1", "X2", "Y1")
    with pytest.raises(notes.BadSignature, match="no listed key"):
        policy(NESTED).approve(stranger)
    other_log = checkpoint(key=log_key(1, "example.com/other"))
    with pytest.raises(notes.BadSignature, match="no log named"):
        policy(NESTED).approve(other_log)


def test_a_key_signs_only_sizes_of_its_range() -> None:
    first, second = (f"{k.name}+{k.verifier.hex_id}" for k in (LOG, LATER_LOG))
    both = policy(
        f"# sanyuan-range {first} 0 99\nlog {LOG.verifier}\nlog {LATER_LOG.verifier}\n"
        f"#sanyuan-range {second} 100 -\n# sanyuan-ranges are explained elsewhere\nquorum none\n"
    )
    for key, size, good in [
        (LOG, 0, True),
        (LOG, 99, True),
        (LOG, 100, False),
        (LATER_LOG, 99, False),
        (LATER_LOG, 100, True),
        (LATER_LOG, notes.TREE_SIZE_MAX, True),
    ]:
        note = checkpoint(size, key)
        if good:
            assert both.approve(note).log.key == key.verifier
        else:
            with pytest.raises(notes.BadSignature, match="may not sign"):
                both.approve(note)
    # At the change both may stand under one checkpoint.
    note = checkpoint(100).with_signatures(checkpoint(100, LATER_LOG).signatures)
    assert both.approve(note).log.key == LATER_LOG.verifier


def test_no_log_only_where_none_is_needed() -> None:
    text = f"{WITNESSES}quorum X1\n".encode()
    assert parse_policy(text, needs_log=False).logs == ()
    with pytest.raises(BadPolicy, match="names no log"):
        parse_policy(text)
    with pytest.raises(BadPolicy, match="names no log"):
        policy_of_logs([])


def test_names_are_opaque_octets() -> None:
    text = f"log {LOG.verifier}\nwitness ".encode() + b"\xe2\x84\xaa\xff\xa0 "
    text += f"{KEYS['X1'].verifier}\nwitness K {KEYS['X2'].verifier}\nquorum ".encode()
    odd = parse_policy(text + b"\xe2\x84\xaa\xff\xa0\n")
    assert odd.quorum_met([odd.witnesses[0].name])
    assert not odd.quorum_met(["K"])
    with pytest.raises(BadPolicy, match="line 4"):
        parse_policy(text + b"\xe2\x84\xaa\xff\n")


L = f"log {LOG.verifier}\n"
W1, W2 = (f"witness X{n} {KEYS[f'X{n}'].verifier}\n" for n in (1, 2))
ID = f"{LOG.name}+{LOG.verifier.hex_id}"
AS_WITNESS = notes.SigningKey("w", notes.COSIGNATURE, LOG.seed).verifier
RENAMED = notes.SigningKey("example.com/renamed", notes.ED25519, LOG.seed).verifier
WEAK = notes.VerifierKey("example.com/weak", notes.ED25519, (1).to_bytes(32, "little"))
REFUSED = {
    "empty": ("", "no quorum"),
    "only-comments": ("# log\n", "no quorum"),
    "no-quorum": (L + W1, "no quorum"),
    "no-line-end": (L + "quorum none", "line 2: it has no line end"),
    "two-quorums": (L + "quorum none\nquorum none\n", "line 3: a second quorum"),
    "quorum-undefined": (L + "quorum X1\n", "line 2: no earlier line defines 'X1'"),
    "quorum-defined-later": (L + "quorum X1\n" + W1, "line 2: no earlier"),
    "quorum-of-two": (L + W1 + W2 + "quorum X1 X2\n", "line 4: a quorum line"),
    "unknown-word": (L + "Quorum none\n", "line 2: 'Quorum' is no word"),
    "comment-after": (L + "quorum none # nobody\n", "line 2: a quorum line"),
    "log-without-key": ("log\nquorum none\n", "line 1: a log line"),
    "log-of-rubbish": ("log rubbish\nquorum none\n", "line 1: a vkey has three parts"),
    "log-with-witness-key": (f"log {AS_WITNESS}\nquorum none\n", "line 1: a log's key"),
    "witness-with-log-key": (f"witness w {LOG.verifier}\nquorum w\n", "line 1: a witness's key"),
    "log-by-anybody": (f"log {WEAK}\nquorum none\n", "line 1: not a public key that can sign"),
    "log-twice": (L + L + "quorum none\n", "line 2: the same public key"),
    "log-renamed": (L + f"log {RENAMED}\nquorum none\n", "line 2: the same public key"),
    "log-as-its-own-witness": (L + f"witness w {AS_WITNESS}\nquorum w\n", "line 2: the same"),
    "witness-twice": (
        L + W1 + W1.replace("X1", "other") + "quorum X1\n",
        "line 3: the same public key",
    ),
    "name-twice": (L + W1 + W2.replace("X2", "X1") + "quorum X1\n", "line 3: 'X1' is defined"),
    "witness-none": (L + W1.replace("X1", "none") + "quorum none\n", "line 2: none has"),
    "group-none": (L + W1 + "group none any X1\nquorum none\n", "line 3: none has"),
    "member-none": (L + W1 + "group g any none\nquorum g\n", "line 3: no earlier"),
    "group-without-members": (L + W1 + "group g any\nquorum g\n", "line 3: a group line"),
    "group-of-itself": (L + W1 + "group g 1 g X1\nquorum g\n", "line 3: no earlier"),
    "member-twice": (L + W1 + "group g 2 X1 X1\nquorum g\n", "line 3: 'X1' is a member"),
    "member-of-two": (
        L + W1 + W2 + "group g any X1\ngroup h all X1 X2\nquorum h\n",
        "line 5: 'X1' is a member",
    ),
    "threshold-0": (L + W1 + "group g 0 X1\nquorum g\n", "line 3: a threshold"),
    "threshold-2-of-1": (L + W1 + "group g 2 X1\nquorum g\n", "line 3: a threshold"),
    "threshold-zeros": (L + W1 + "group g 01 X1\nquorum g\n", "line 3: a threshold"),
    "threshold-huge": (L + W1 + f"group g {'9' * 5000} X1\nquorum g\n", "line 3: a threshold"),
    "carriage-return": (L.replace("\n", "\r\n") + "quorum none\n", "line 1: a control"),
    "delete": (L + "# \x7f\nquorum none\n", "line 2: a control"),
    "nul": (L + "\0quorum none\n", "line 2: a control"),
    "range-of-nobody": (L + "# sanyuan-range x+00000000 0 -\nquorum none\n", "line 2: no log line"),
    "range-backwards": (L + f"# sanyuan-range {ID} 5 4\nquorum none\n", "line 2: a range"),
    "range-twice": (
        L + f"# sanyuan-range {ID} 0 4\n# sanyuan-range {ID} 5 -\nquorum none\n",
        "line 3: a second range",
    ),
    "range-cut": (L + f"# sanyuan-range {ID} 0\nquorum none\n", "line 2: sanyuan-range has"),
    "range-not-a-number": (L + f"# sanyuan-range {ID} a -\nquorum none\n", "line 2: not a dec"),
    "too-large": ("#" * 300_000 + "\n", "at most"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_policies_are_refused_and_the_line_is_named(case: str) -> None:
    text, why = REFUSED[case]
    with pytest.raises(BadPolicy) as refused:
        policy(text)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("case", REFUSED)
def test_the_verifier_that_stands_alone_refuses_the_same(case: str) -> None:
    with pytest.raises(verify.Refusal):
        verify.read_policy(REFUSED[case][0].encode())


@given(st.data())
def test_the_verifier_that_stands_alone_counts_the_same(data: st.DataObject) -> None:
    lines, free = [f"log {LOG.verifier}", WITNESSES.rstrip()], list(KEYS)
    for number in range(data.draw(st.integers(0, 4))):
        members = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=len(free)))
        if members:
            count = data.draw(st.sampled_from(["any", "all", str(len(members) // 2 + 1)]))
            lines.append(f"group g{number} {count} {' '.join(members)}")
            free = [name for name in free if name not in members] + [f"g{number}"]
    groups = [line.split()[1] for line in lines[2:]]
    lines.append(f"quorum {data.draw(st.sampled_from([*KEYS, *groups, 'none']))}")
    text = "\n".join([*lines, ""])
    note = cosigned(checkpoint(), *data.draw(st.sets(st.sampled_from(list(KEYS)))))
    alone = verify.read_policy(text.encode())
    _, witnesses = verify.check_signatures(verify.read_checkpoint(str(note)), alone)
    try:
        policy(text).approve(note)
        met = True
    except QuorumNotMet:
        met = False
    assert verify.quorum_is_met(alone, witnesses) == met


def test_many_parts_are_refused() -> None:
    lines = [
        f"witness w{n} {notes.SigningKey('w', notes.COSIGNATURE, n.to_bytes(32, 'big')).verifier}\n"
        for n in range(257)
    ]
    with pytest.raises(BadPolicy, match="line 258: more than 256 witnesses"):
        policy(L + "".join(lines) + "quorum none\n")


@given(st.binary(max_size=120))
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadPolicy):
        assert parse_policy(data).logs
