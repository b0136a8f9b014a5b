"""Evidence for the page: a small bank by the oracle, exported with every kind of proof; and how the
page and verify.py are asked about it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

from ledger.proof import verify
from tests.browser.chromium import Page
from tests.model.proofs import (
    PENDING,
    Bundle,
    Ledger,
    Signer,
    b64,
    canonical,
    export,
    sealed,
    zip_bytes,
)

ORIGIN = "bank.example/log"
WITNESSES = [Signer(f"w{number}.example", 4) for number in range(3)]


class Evidence(NamedTuple):
    """All files of an export, the zip of them, and a policy."""

    ledger: Ledger
    bundle: Bundle
    files: dict[str, bytes]
    zip: bytes
    policy: str

    @property
    def json(self) -> bytes:
        """The lone bundle.json."""
        return self.files["bundle.json"]


def policy_of(ledger: Ledger) -> str:
    lines = [f"log {ledger.log.vkey}"]
    lines += [f"witness W{place} {one.vkey}" for place, one in enumerate(WITNESSES)]
    return "\n".join([*lines, "group some 2 W0 W1 W2", "quorum some", ""])


@cache
def everything(*, full: bool = True) -> Evidence:
    """Two statements, a trial balance, a tile, an entry, a full state (or not), a consistency proof
    and two samples, one of them with an erased entry: accounts in two ledgers, pending transfers
    with each of their ends, settings, metadata.
    """
    bank = Ledger(ORIGIN)
    for account in range(1, 301):
        bank.open(account, ledger=1, code=10)
    for account in range(301, 305):
        bank.open(account, ledger=2, code=20)
    bank.open(2**127 + 400, ledger=1, code=30)
    bank.move_date(900, 20260105)
    bank.close_block(seal=True)
    old = bank.checkpoint(WITNESSES[:1])
    bank.transfer(101, 1, 2, 50_000)
    bank.transfer(102, 2, 2**127 + 400, 20_000, metadata='{"a":"贷"}')
    bank.transfer(103, 1, 3, 5_000, flags=PENDING)
    bank.close_block()
    older = bank.keep_state().block
    bank.transfer(104, 2, 1, 3_000)
    bank.close_block(seal=True)
    bank.post(105, 103, 4_000)
    bank.settings(106, 1, 100_000, 0, 1)
    bank.burn(107, 21)
    bank.transfer(108, 1, 2, 500, flags=PENDING)
    bank.transfer(109, 1, 2, 600, flags=PENDING)
    bank.close_block()
    bank.move_date(901, 20260106)
    bank.close_block(seal=True)
    bank.void(110, 108)
    bank.expire(109)
    bank.close_block()
    newer = bank.keep_state()
    bank.transfer(111, 1, 2, 700)
    bank.close_block(seal=True)

    bundle = Bundle(bank, bank.checkpoint(WITNESSES[:2]))
    bundle.add_statement(1, older, newer.block, newest=True, disclose=True, whole=True)
    bundle.add_statement(2, None, newer.block, newest=True, whole=True)
    bundle.add_trial_balance(newer.block)
    bundle.add_tile(newer.block, 0, 1)
    bundle.add_entry(306)
    if full:
        bundle.add_full_state(newer.block)
    bundle.add_consistency(old)
    bundle.add_sample(5, seed="abc", erased=[bundle.drawn_entries(5, seed="abc", witness=None)[1]])
    bundle.add_sample(4, witness="w0.example")
    policy = policy_of(bank)
    state = {"state_bin": newer.file()} if full else {}
    files = export(bundle, policy_txt=policy.encode(), **state)
    return Evidence(bank, bundle, files, zip_bytes(files), policy)


@cache
def statement_of(entry_count: int) -> Evidence:
    """One account's complete statement with so many entries after its opening."""
    bank = Ledger(ORIGIN)
    bank.open(1, ledger=1, code=10)
    bank.open(2, ledger=1, code=10)
    bank.move_date(900, 20260105)
    bank.close_block()
    for number in range(entry_count):
        bank.transfer(1000 + number, 1 + number % 2, 2 - number % 2, 100 + number)
    bank.close_block()
    state = bank.keep_state()
    bank.move_date(901, 20260106)
    bank.close_block(seal=True)
    bundle = Bundle(bank, bank.checkpoint(WITNESSES[:2]))
    bundle.add_statement(1, None, state.block)
    files = export(bundle)
    return Evidence(bank, bundle, files, zip_bytes(files), policy_of(bank))


@cache
def smallest() -> Evidence:
    """One entry in a log of one interval that no witness knows."""
    bank = Ledger("b.example")
    bank.open(1, ledger=1, code=1)
    bank.close_block(seal=True)
    bundle = Bundle(bank, bank.checkpoint())
    bundle.add_entry(0)
    files = export(bundle)
    policy = f"log {bank.log.vkey}\nquorum none\n"
    return Evidence(bank, bundle, files, zip_bytes(files), policy)


def resealed(bundle: Any) -> bytes:
    """A changed bundle with a digest that is right again."""
    return canonical(sealed(bundle)).encode()


# ----------------------------------------------------------------------------------------------
# Asking
# ----------------------------------------------------------------------------------------------

BYTES = "const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));"


def ask(
    page: Page,
    zip: bytes | None = None,
    policy: str | bytes | None = None,
    *,
    files: dict[str, bytes] | None = None,
    language: str = "en",
    **expectations: Any,
) -> dict[str, Any]:
    """Return what the page's one function says."""
    return ask_all(page, [(zip, files, policy, expectations)], language)[0]


def ask_all(page: Page, cases: list[Any], language: str = "en") -> list[dict[str, Any]]:
    """Return the answers to (zip, files, policy, expectations), one after another in the page."""
    questions = [
        {
            "zip": None if zip is None else b64(zip),
            "files": {name: b64(data) for name, data in (files or {}).items()},
            "policy": b64(policy) if isinstance(policy, bytes) else None,
            "text": policy if isinstance(policy, str) else None,
            "expectations": expectations,
        }
        for zip, files, policy, expectations in cases
    ]
    return list(
        page.run(
            f"""(async (questions) => {{
                {BYTES}
                const answers = [];
                for (const {{ zip, files, policy, text, expectations }} of questions) {{
                  const what = zip !== null ? {{ zip: bytes(zip) }} : {{ files:
                    Object.fromEntries(Object.entries(files).map(([name, data]) =>
                      [name, bytes(data)])) }};
                  answers.push(await sanyuan.verify({{ ...what, expectations,
                    language: "{language}", policy: policy === null ? text : bytes(policy) }}));
                }}
                return answers;
            }})({json.dumps(questions)})"""
        )
    )


def ask_python(
    zip: bytes | None = None,
    policy: str | bytes | None = None,
    *,
    files: dict[str, bytes] | None = None,
    language: str = "en",
) -> dict[str, Any]:
    """Return what verify.py says, in the page's form."""
    data = policy.encode() if isinstance(policy, str) else policy
    try:
        package = (
            verify.package_of_bytes(zip)
            if zip is not None
            else verify.package_of_files(files or {})
        )
        report = verify.examine(package, data)
    except verify.Refusal as refusal:
        report = verify.Report()
        report.verdict, report.code, report.reason = "refused", refusal.code, refusal.reason
        detail = verify.Text(
            refusal.reason, f"{verify.REFUSALS_ZH[refusal.code]}（{refusal.reason}）"
        )
        report.checks.append(verify.Check("files", False, detail))
    plain = json.loads(verify.json_of(report, language))
    plain["proven"] = [getattr(text, language) for text in report.proven]
    plain["notShown"] = [getattr(text, language) for text in report.not_shown]
    return dict(plain)
