"""The witness: what it cosigns and what it refuses, when it records, and whatever it is sent."""

import hashlib
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import ConfigurationError, DataDamaged, DirectoryInUse, DiskFailed, DiskFull
from ledger.proof import notes, witness
from ledger.proof.policy import parse_policy, policy_of_logs
from ledger.proof.witness import SIZE, Request, Witness, create_key, parse_request, read_key
from tests.witnesses import SmallLog, WitnessProcess

VECTORS = json.loads(
    (Path(__file__).parents[2].parent / "shared" / "vectors" / "notes.json").read_text()
)
LOG = SmallLog()
NOW = 1_700_000_000.9


def opened(directory: Path, *logs: SmallLog) -> Witness:
    if not (directory / "key").exists():
        create_key(directory, "witness.example/w")
    policy = policy_of_logs([log.key.verifier for log in logs or (LOG,)])
    return Witness(directory, policy, clock_s=lambda: NOW)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Witness]:
    with opened(tmp_path / "w") as made:
        yield made


def cosigned(one: Witness, body: bytes) -> notes.Signature:
    answer = one.add_checkpoint(body)
    assert (answer.status, answer.outcome) == (200, "cosigned"), answer
    (line,) = notes.parse_signatures(answer.body.decode())
    assert notes.verifies(one.key, parse_request(body).note.text, line)
    assert line.time_s == int(NOW)
    return line


def told(answer: witness.Answer) -> int:
    assert (answer.status, answer.content_type) == (409, SIZE)
    return int(answer.body.removesuffix(b"\n"))


# ----------------------------------------------------------------------------------------------
# The protocol
# ----------------------------------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned(one: Witness) -> None:
    old = 0
    for new in (1, 2, 3, 7, 8, 64, 65, 255, 300):
        cosigned(one, LOG.request(old, new))
        old = new
    assert one.status()["logs"][0]["size"] == 300


def test_published_checkpoints_and_proof(tmp_path: Path) -> None:
    first, second = (case for case in VECTORS["notes"] if case["name"].startswith("monkeys"))
    create_key(tmp_path / "w", "witness.example/w")
    policy = policy_of_logs([notes.VerifierKey.parse(first["vkey"])])
    proof = tuple(bytes.fromhex(one) for one in VECTORS["monkeys_consistency_5_8_hex"])
    with Witness(tmp_path / "w", policy, clock_s=lambda: NOW) as one:
        cosigned(one, bytes(Request(0, (), notes.parse_note(first["note"]))))
        bad = bytes(Request(5, proof[::-1], notes.parse_note(second["note"])))
        assert one.add_checkpoint(bad).status == 422
        cosigned(one, bytes(Request(5, proof, notes.parse_note(second["note"]))))


def test_an_empty_log_is_cosigned_and_only_with_the_root_of_nothing(one: Witness) -> None:
    bad = notes.sign_checkpoint(LOG.key, notes.Checkpoint(LOG.key.name, 0, bytes(32)))
    assert one.add_checkpoint(bytes(Request(0, (), bad))).status == 422
    cosigned(one, LOG.request(0, 0))
    cosigned(one, LOG.request(0, 5))


def test_the_same_checkpoint_is_cosigned_again(one: Witness) -> None:
    first = cosigned(one, LOG.request(0, 5))
    assert cosigned(one, LOG.request(5, 5)) == first


def test_another_size_is_told_the_right_one(one: Witness) -> None:
    cosigned(one, LOG.request(0, 5))
    for old, new in [(0, 5), (0, 8), (3, 5), (4, 8), (0, 3), (3, 3), (6, 8), (8, 8)]:
        assert told(one.add_checkpoint(LOG.request(old, new))) == 5
    cosigned(one, LOG.request(5, 8))


def test_an_old_size_above_the_checkpoint_is_malformed(one: Witness) -> None:
    body = bytes(Request(6, (), LOG.note(5)))
    assert one.add_checkpoint(body).status == 400


def test_a_proof_where_none_belongs_is_refused(one: Witness) -> None:
    assert one.add_checkpoint(bytes(Request(0, (bytes(32),), LOG.note(5)))).status == 422
    cosigned(one, LOG.request(0, 5))
    assert one.add_checkpoint(bytes(Request(5, (bytes(32),), LOG.note(5)))).status == 422
    assert one.add_checkpoint(bytes(Request(5, (), LOG.note(8)))).status == 422
    longer = (*LOG.proof(5, 8), bytes(32))
    assert one.add_checkpoint(bytes(Request(5, longer, LOG.note(8)))).status == 422
    assert one.status()["logs"][0]["size"] == 5


def test_unknown_logs_and_keys(one: Witness) -> None:
    assert one.add_checkpoint(SmallLog("example.com/other").request(0, 5)).status == 404
    assert one.add_checkpoint(SmallLog(seed=2).request(0, 5)).status == 403
    (line,) = LOG.note(5).signatures
    unsigned = notes.Note(LOG.note(6).text, (line,))
    assert one.add_checkpoint(bytes(Request(0, (), unsigned))).status == 403
    assert one.status()["logs"][0]["size"] == 0
    # Lines of strangers beside the log's own change nothing.
    strangers = SmallLog(seed=2).note(5).signatures
    cosigned(one, bytes(Request(0, (), LOG.note(5).with_signatures(strangers))))


def test_a_replaced_key_signs_only_its_sizes(tmp_path: Path) -> None:
    later = SmallLog(seed=2)
    names = [f"{log.key.name}+{log.key.verifier.hex_id}" for log in (LOG, later)]
    policy = parse_policy(
        f"log {LOG.vkey}\n# sanyuan-range {names[0]} 0 8\n"
        f"log {later.vkey}\n# sanyuan-range {names[1]} 9 -\nquorum none\n".encode()
    )
    create_key(tmp_path / "w", "witness.example/w")
    with Witness(tmp_path / "w", policy, clock_s=lambda: NOW) as one:
        cosigned(one, LOG.request(0, 8))
        assert one.add_checkpoint(LOG.request(8, 9)).status == 403
        cosigned(one, later.request(8, 9))


# ----------------------------------------------------------------------------------------------
# Forks
# ----------------------------------------------------------------------------------------------


def test_forks_are_refused_logged_counted_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fork = LOG.fork(3)
    with opened(tmp_path / "w") as one:
        cosigned(one, LOG.request(0, 5))
        for _ in range(2):  # the same again is counted, and kept once
            assert told(one.add_checkpoint(fork.request(5, 5))) == 5
            assert told(one.add_checkpoint(fork.request(0, 5))) == 5
            assert one.add_checkpoint(fork.request(5, 8)).status == 422
        status = one.status()
    assert status["logs"][0]["outcomes"] == {"cosigned": 1, "fork": 4, "inconsistent": 2}
    assert [name.split("-")[0] for name in status["evidence"]] == ["fork", "inconsistent"]
    assert len([r for r in caplog.records if "refused a checkpoint" in r.message]) == 2
    for name, size in zip(status["evidence"], (5, 8), strict=True):
        text = (tmp_path / "w" / "evidence" / name).read_text()
        recorded, refused = text.split("--- recorded\n")[1].split("\n--- refused\n")
        assert notes.parse_note(recorded).signed_by(LOG.key.verifier)
        sent = parse_request(refused.encode()).note
        assert sent.signed_by(LOG.key.verifier)
        assert notes.parse_checkpoint(sent.text).size == size
        assert sent.text != LOG.note(size).text


def test_evidence_has_an_end_and_forks_are_not_crowded_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "INCONSISTENT_KEPT_MAX", 3)
    with opened(tmp_path / "w") as one:
        cosigned(one, LOG.request(0, 5))
        for size in range(6, 20):
            assert one.add_checkpoint(bytes(Request(5, (), LOG.note(size)))).status == 422
        assert one.add_checkpoint(LOG.fork(1).request(5, 5)).status == 409
    kinds = sorted(path.name.split("-")[0] for path in (tmp_path / "w" / "evidence").iterdir())
    assert kinds == ["fork", "inconsistent", "inconsistent", "inconsistent"]
    with opened(tmp_path / "w") as one:  # the limit holds after a restart
        assert one.add_checkpoint(bytes(Request(5, (), LOG.note(30)))).status == 422
        assert len(one.status()["evidence"]) == 4


def test_many_at_once_never_two_roots_of_one_size(one: Witness) -> None:
    cosigned(one, LOG.request(0, 5))
    branches = [LOG.fork(5, branch=n) for n in range(16)]
    start = threading.Barrier(len(branches))
    answers: list[tuple[int, witness.Answer]] = []

    def ask(number: int, log: SmallLog) -> None:
        body = log.request(5, 9)
        start.wait()
        answers.append((number, one.add_checkpoint(body)))

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(branches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, answer in answers if answer.status == 200]
    assert sorted(answer.status for _, answer in answers) == [200] + [409] * 15
    assert one.status()["logs"][0]["root"] == notes.encode_base64(branches[winner].root(9))


# ----------------------------------------------------------------------------------------------
# The directory
# ----------------------------------------------------------------------------------------------


def test_what_was_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "w") as one:
        cosigned(one, LOG.request(0, 5))
    with opened(tmp_path / "w") as one:
        assert told(one.add_checkpoint(LOG.request(0, 3))) == 5
        assert told(one.add_checkpoint(LOG.fork(2).request(5, 5))) == 5
        cosigned(one, LOG.request(5, 6))


def test_one_process_at_a_time(tmp_path: Path, one: Witness) -> None:
    with pytest.raises(DirectoryInUse):
        opened(tmp_path / "w")
    one.close()
    opened(tmp_path / "w").close()


def test_keys_are_private_and_never_replaced(tmp_path: Path) -> None:
    public = create_key(tmp_path / "w", "witness.example/w")
    path = tmp_path / "w" / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in (tmp_path / "w").iterdir()] == ["key"]
    with pytest.raises(ConfigurationError, match="has a key already"):
        create_key(tmp_path / "w", "witness.example/w")
    assert read_key(tmp_path / "w").verifier == public
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_key(tmp_path / "w")


SECRET = notes.SigningKey("w", notes.ED25519, bytes(32)).secret_text()


@pytest.mark.parametrize("text", ["", "rubbish", "\xff", SECRET, SECRET[:-3], "x" * 10_000])
def test_a_file_that_is_no_witness_key_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as refused:
        read_key(tmp_path)
    assert str(path) in str(refused.value)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("name", ["", "with space", "a+b", "tab\t"])
def test_names_that_no_key_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="key name"):
        create_key(tmp_path / "w", name)
    assert not (tmp_path / "w").exists()


def test_a_damaged_record_stops_the_witness(tmp_path: Path) -> None:
    with opened(tmp_path / "w") as one:
        cosigned(one, LOG.request(0, 5))
    path = tmp_path / "w" / "logs" / hashlib.sha256(LOG.key.name.encode()).hexdigest()
    good = path.read_bytes()
    path.write_bytes(good[:-10])
    with pytest.raises(DataDamaged, match="must not go on without it"):
        opened(tmp_path / "w")
    path.write_bytes(bytes(SmallLog("example.com/other").note(5)))
    with pytest.raises(DataDamaged, match=r"example\.com/other"):
        opened(tmp_path / "w")
    path.write_bytes(bytes(notes.Note(LOG.note(4).text, LOG.note(5).signatures)))
    with pytest.raises(ConfigurationError, match="does not verify"):
        opened(tmp_path / "w")
    path.write_bytes(good)
    opened(tmp_path / "w").close()


def test_a_key_removed_too_early_is_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path / "w") as one:
        cosigned(one, LOG.request(0, 5))
    with pytest.raises(ConfigurationError, match="keep the log's former key"):
        opened(tmp_path / "w", SmallLog(seed=2))


@pytest.mark.parametrize("full", [True, False])
def test_nothing_is_signed_that_could_not_be_recorded(
    one: Witness, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    cosigned(one, LOG.request(0, 5))
    real = witness.write_file

    def broken(*arguments: object, **options: object) -> None:
        raise (DiskFull if full else DiskFailed)("no")

    monkeypatch.setattr(witness, "write_file", broken)
    answer = one.add_checkpoint(LOG.request(5, 8))
    assert (answer.status, answer.outcome) == (500, "disk")
    monkeypatch.setattr(witness, "write_file", real)
    # Room may be made; a disk that failed is not trusted again.
    if full:
        cosigned(one, LOG.request(5, 8))
    else:
        assert one.add_checkpoint(LOG.request(5, 8)).status == 500
        assert one.failure is not None


# ----------------------------------------------------------------------------------------------
# Bad input
# ----------------------------------------------------------------------------------------------

NOTE = bytes(LOG.note(5))
HASH = notes.encode_base64(bytes(32)).encode() + b"\n"
BAD = {
    "nothing": b"",
    "only-lines": b"\n" * 1000,
    "no-old": b"\n" + NOTE,
    "no-empty-line": b"old 0\n" + NOTE.split(b"\n\n")[0],
    "new-for-old": b"new 0\n\n" + NOTE,
    "capital": b"Old 0\n\n" + NOTE,
    "two-spaces": b"old  0\n\n" + NOTE,
    "no-size": b"old\n\n" + NOTE,
    "empty-size": b"old \n\n" + NOTE,
    "leading-zero": b"old 00\n\n" + NOTE,
    "negative": b"old -1\n\n" + NOTE,
    "plus": b"old +0\n\n" + NOTE,
    "beyond": b"old 9223372036854775808\n\n" + NOTE,
    "very-long-size": b"old " + b"9" * 60_000 + b"\n\n" + NOTE,
    "arabic-digits": "old ٠\n\n".encode() + NOTE,
    "carriage-returns": (b"old 0\n\n" + NOTE).replace(b"\n", b"\r\n"),
    "64-hashes": b"old 1\n" + HASH * 64 + b"\n" + NOTE,
    "bad-base64": b"old 1\n" + b"!" * 44 + b"\n\n" + NOTE,
    "base64-not-canonical": b"old 1\n" + HASH.replace(b"A=", b"B=") + b"\n" + NOTE,
    "short-hash": b"old 1\nAAAA\n\n" + NOTE,
    "long-hash": b"old 1\n" + notes.encode_base64(bytes(33)).encode() + b"\n\n" + NOTE,
    "space-after-hash": b"old 1\n" + HASH[:-1] + b" \n\n" + NOTE,
    "hash-of-high-bytes": b"old 1\n\xff\xff\n\n" + NOTE,
    "no-note": b"old 0\n\n",
    "unsigned": b"old 0\n\n" + NOTE.split(b"\n\n")[0] + b"\n",
    "note-cut": b"old 0\n\n" + NOTE[:-1],
    "not-a-checkpoint": b"old 0\n\nhello\n\n" + NOTE.split(b"\n\n")[1],
    "not-utf-8": b"old 0\n\n\xff" + NOTE,
    "oversized": b"old 0\n\n" + NOTE + b"x" * witness.REQUEST_SIZE_MAX,
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_requests(one: Witness, case: str) -> None:
    answer = one.add_checkpoint(BAD[case])
    assert (answer.status, answer.outcome) == (400, "malformed")
    assert answer.body.count(b"\n") == 1
    assert one.status()["logs"][0]["size"] == 0


def test_63_hashes_are_read(one: Witness) -> None:
    cosigned(one, LOG.request(0, 5))
    body = bytes(Request(5, (bytes(32),) * 63, LOG.note(8)))
    assert one.add_checkpoint(body).status == 422


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = parse_request(data)
    except notes.BadNote:
        return
    assert bytes(request) == data


# ----------------------------------------------------------------------------------------------
# Over HTTP
# ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WitnessProcess]:
    with WitnessProcess(tmp_path_factory.mktemp("served") / "w", LOG.vkey) as process:
        yield process


def test_add_checkpoint_over_http(served: WitnessProcess) -> None:
    assert served.ask(LOG.request(0, 5))[0] == 200
    status, content_type, body = served.ask(LOG.request(5, 8))
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    (line,) = notes.parse_signatures(body.decode())
    assert notes.verifies(served.key, LOG.note(8).text, line)
    assert served.ask(LOG.request(5, 8)) == (409, "text/x.tlog.size", b"8\n")
    assert served.ask(LOG.fork(2).request(8, 8)) == (409, "text/x.tlog.size", b"8\n")
    assert served.ask(LOG.fork(2).request(8, 9))[0] == 422
    assert served.ask(SmallLog("example.com/other").request(0, 5))[0] == 404
    assert served.ask(SmallLog(seed=2).request(0, 5))[0] == 403
    assert served.ask(BAD["64-hashes"])[0] == 400
    status_page = json.loads(served.get("/"))
    assert status_page["witness"] == str(served.key)
    assert status_page["logs"][0]["size"] == 8
    assert notes.parse_note(status_page["logs"][0]["checkpoint"]).text == LOG.note(8).text
    metrics = served.get("/metrics").splitlines()
    label = f'origin="{LOG.key.name}"'
    assert f'sanyuan_witness_refused_total{{{label},reason="fork"}} 1' in metrics
    assert f'sanyuan_witness_refused_total{{{label},reason="inconsistent"}} 1' in metrics
    assert f"sanyuan_witness_log_size{{{label}}} 8" in metrics
    assert 'sanyuan_witness_requests_total{outcome="cosigned"} 2' in metrics
    assert "sanyuan_witness_evidence 2" in metrics


def test_hostile_requests_over_http(served: WitnessProcess) -> None:
    assert served.ask(BAD["oversized"])[0] == 413
    assert served.ask(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})[0] == 415
    assert served.ask(method="GET")[0] == 405
    assert served.ask(LOG.request(0, 5), path="/add-checkpoint/")[0] == 404
    assert served.ask(LOG.request(0, 5), path="/%2e%2e/key")[0] == 404
    assert served.ask(LOG.request(0, 5), headers={"X": "y" * 20_000})[0] == 400
    assert json.loads(served.get("/"))["failure"] is None


def test_a_witness_needs_no_compiled_module() -> None:
    """It runs where nothing of the ledger was built."""
    code = (
        "import sys, ledger.cli.witness, ledger.api.witness\n"
        "print([m.__name__ for m in list(sys.modules.values()) if m.__name__.startswith('ledger._')"
        " or m.__name__ in ('lmdb', 'uvloop', 'blake3')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_one_line_for_what_is_wrong(tmp_path: Path) -> None:
    create_key(tmp_path / "w", "witness.example/w")
    (tmp_path / "policy").write_text("quorum none\n")
    for arguments, why in [
        ((), "with --log, or with --policy"),
        (("--log", "rubbish"), "--log: a vkey has three parts"),
        (("--policy", str(tmp_path / "policy")), "names no log"),
        (("--log", LOG.vkey, "--host", "203.0.113.1"), "cannot listen"),
    ]:
        with pytest.raises(AssertionError) as failed:
            WitnessProcess(tmp_path / "w", arguments=arguments)
        assert why in str(failed.value)
        assert "Traceback" not in str(failed.value)
