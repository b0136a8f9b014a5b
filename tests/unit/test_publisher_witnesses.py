"""The publisher with witnesses in processes of their own: what the quorum has cosigned is shown,
whoever is away; posting never waits; a fork gets nowhere, and that is seen.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ledger.proof import publisher as publishing
from ledger.proof.cosigners import Cosigners
from ledger.proof.policy import Policy, parse_policy
from ledger.proof.signing import create_key
from tests.unit.test_publisher import NAME, Bank, until
from tests.witnesses import WitnessProcess


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


class City:
    """A bank's key, and three witnesses of its log of whom two are enough."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        (folder / "bank").mkdir()
        self.vkey = create_key(folder / "bank" / "signing-key", name=NAME, passphrase=None)
        self.witnesses = [
            stack.enter_context(WitnessProcess(folder / f"w{n}", str(self.vkey))) for n in range(3)
        ]

    def bring_back(self, number: int) -> None:
        port = self.witnesses[number].url.rsplit(":", 1)[1]
        self.witnesses[number] = self._stack.enter_context(
            WitnessProcess(self._folder / f"w{number}", str(self.vkey), arguments=("--port", port))
        )

    @property
    def policy(self) -> Policy:
        lines = "\n".join(witness.policy_line for witness in self.witnesses)
        names = " ".join(witness.key.name for witness in self.witnesses)
        text = f"log {self.vkey}\n{lines}\ngroup two 2 {names}\nquorum two\n"
        return parse_policy(text.encode())

    def bank(self, folder: str = "bank") -> Bank:
        cosigners = Cosigners(self.policy, timeout_s=10.0)
        bank = Bank(self._folder / folder, policy=self.policy, cosigners=cosigners)
        self._stack.callback(bank.stop)
        return bank


def metric(bank: Bank, name: str) -> dict[str, float]:
    return next(dict(samples) for n, _, _, samples in bank.publisher.metrics() if n == name)


def shown_by(bank: Bank, policy: Policy) -> set[str]:
    """Who cosigned what the bank shows; it must satisfy the policy."""
    approved = policy.approve(bank.log.checkpoint() or "")
    return {witness.name for witness in approved.cosignatures}


def test_witnesses_come_and_go(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "LATE_S", 0.2)
    monkeypatch.setattr(publishing, "COSIGN_AGAIN_S", 0.1)
    city = City(tmp_path, stack)
    bank, names = city.bank(), [witness.key.name for witness in city.witnesses]
    bank.published(bank.open_accounts(1, 5))
    assert len(shown_by(bank, city.policy)) >= 2

    # One is stopped: the other two are the quorum.
    city.witnesses[2].stop()
    bank.published(bank.open_accounts(10, 5))
    until(lambda: bank.publisher.wait_published(bank.open_accounts(20), 10))
    assert shown_by(bank, city.policy) == set(names[:2])

    # Two are stopped: posting goes on, what is shown stays, and it is told who is silent.
    city.witnesses[1].kill()
    before = bank.log.published()
    assert before is not None
    block = bank.open_accounts(30, 5)
    assert not bank.publisher.wait_published(block, 0.5)
    assert bank.log.published() == before
    assert bank.log.size > before.size
    until(lambda: [code for code, _ in bank.publisher.warnings()] == ["cosignatures_missing"])
    ((_, sentence),) = bank.publisher.warnings()
    assert names[1] in sentence
    assert names[2] in sentence
    assert names[0] not in sentence
    assert metric(bank, "sanyuan_cosigned_checkpoint_age_seconds")[""] > 0.2
    assert metric(bank, "sanyuan_checkpoint_age_seconds")[""] < 0.2

    # One comes back, with all it knew: what waited is shown with its cosignature.
    city.bring_back(1)
    bank.published(block)
    assert shown_by(bank, city.policy) == set(names[:2])
    until(lambda: not bank.publisher.warnings())
    assert metric(bank, "sanyuan_cosigned_checkpoint_age_seconds")[""] == 0
    assert set(metric(bank, "sanyuan_witness_refusals_total").values()) == {0}
    last = metric(bank, "sanyuan_witness_success_timestamp_seconds")
    assert last[f'witness="{names[0]}"'] == pytest.approx(time.time(), abs=60)


def test_a_fork_by_the_banks_own_key_gets_nowhere(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody with the key runs a second ledger under the same name, with another journal."""
    monkeypatch.setattr(publishing, "COSIGN_AGAIN_S", 0.1)
    city = City(tmp_path, stack)
    (tmp_path / "fork").mkdir()
    for path in (tmp_path / "bank").glob("signing-key*"):
        shutil.copy2(path, tmp_path / "fork")
    bank = city.bank()
    bank.published(bank.open_accounts(1, 5))

    fork = city.bank("fork")
    block = fork.open_accounts(100, 20)
    until(lambda: all(metric(fork, "sanyuan_witness_refusals_total").values()))
    assert not fork.publisher.wait_published(block, 0.3)
    assert fork.log.checkpoint() is None
    assert "log_refused" in [code for code, _ in fork.publisher.warnings()]
    for witness in city.witnesses:
        assert "refused a checkpoint of" in witness.output
        assert list((tmp_path / witness.key.name.rsplit("/", 1)[1] / "evidence").iterdir())
    # The true ledger is not harmed.
    bank.published(bank.open_accounts(50, 3))
