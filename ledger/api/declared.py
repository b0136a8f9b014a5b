"""Declared ledgers and codes as answers use them: exponents, currencies, names, normal sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from ledger import layout

if TYPE_CHECKING:
    from ledger.engine import Engine

_LEDGER: Final = layout.DEFINITION_KINDS["ledger"][0]
_CODE: Final = layout.DEFINITION_KINDS["code"][0]
_CREDIT_NORMAL: Final = layout.flag_mask("DEFINITION", "normal_side_credit")
_DEBITS_LIMITED: Final = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
_OVERDRAFT: Final = layout.flag_mask("ACCOUNT_SETTINGS", "overdraft")


@dataclass(frozen=True, slots=True)
class Unit:
    """A ledger's unit: decimal places, and the currency's code if its definition names one."""

    exponent: int
    currency: str | None

    def text(self, amount: int) -> str:
        """Return an amount of minor units as people write it: ``-12.34 CNY``."""
        sign, digits = ("-" if amount < 0 else ""), str(abs(amount))
        if self.exponent:
            digits = digits.rjust(self.exponent + 1, "0")
            digits = f"{digits[: -self.exponent]}.{digits[-self.exponent :]}"
        return f"{sign}{digits} {self.currency}" if self.currency else sign + digits


@dataclass(frozen=True, slots=True)
class Definitions:
    """All declarations at one time."""

    units: dict[int, Unit]
    ledger_names: dict[int, str]
    code_names: dict[int, str]
    credit_normal: dict[int, bool]

    def credit_normal_of(self, accounts: np.ndarray, settings: np.ndarray) -> np.ndarray:
        """Return for each account whether its normal side is credit.

        As its code is declared; else credit where debits are limited (by flag or overdraft), else
        debit.
        """
        limited: np.ndarray = (accounts["flags"] & _DEBITS_LIMITED) != 0
        limited |= (settings & _OVERDRAFT) != 0
        if not self.credit_normal:
            return limited
        codes, places = np.unique(accounts["code"], return_inverse=True)
        known = np.array([int(code) in self.credit_normal for code in codes])
        sides = np.array([self.credit_normal.get(int(code), False) for code in codes])
        return np.where(known[places], sides[places], limited)


class Declared:
    """The declarations of an engine, read once and kept until one is made. Used on the event loop
    and on reading threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._generation = 0
        self._kept: tuple[int, Definitions] | None = None

    def forget(self) -> None:
        """A declaration may have changed: read them again when they are needed."""
        self._generation += 1

    @property
    def kept(self) -> Definitions | None:
        """The declarations if nothing changed since they were read."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0] == self._generation else None

    def load(self) -> Definitions:
        """Return the declarations; may wait for the engine, so not for the event loop."""
        kept = self.kept
        if kept is None:
            generation = self._generation
            kept = _definitions(self._engine.read(lambda core: core.definitions()).result())
            self._kept = (generation, kept)
        return kept


def _definitions(rows: list[dict[str, Any]]) -> Definitions:
    found = Definitions({}, {}, {}, {})
    for row in rows:
        named = msgspec.json.decode(row["metadata"]) if row["metadata"] else {}
        name = named.get("name")
        if row["kind"] == _LEDGER:
            currency = named.get("currency")
            found.units[row["ledger"]] = Unit(
                row["exponent"], currency if isinstance(currency, str) else None
            )
            if isinstance(name, str):
                found.ledger_names[row["ledger"]] = name
        elif row["kind"] == _CODE:
            found.credit_normal[row["code"]] = bool(row["flags"] & _CREDIT_NORMAL)
            if isinstance(name, str):
                found.code_names[row["code"]] = name
    return found
