"""The bench transfer: accounts and transfers drawn by a compiled generator that holds no lock.

Account ids are random u128, and a function of the account's place, so that drawing one reads no
memory. Ordered transfer ids are 48-bit milliseconds and 80 random bits, ascending; random ones are
UUIDv4. Amounts are log-normal. The full payload has random user_data_128/64/32, the lean one random
user_data_64 only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from math import gcd
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from ledger import layout

DISTRIBUTIONS: Final = ("uniform", "zipf", "hot")
ID_ORDERS: Final = ("sequential", "random")
PAYLOADS: Final = ("full", "lean")
ZIPF_EXPONENT: Final = 0.99
AMOUNT_MEDIAN: Final = 5000
"""Minor units: half of the transfers are above 50.00."""
AMOUNT_SIGMA: Final = 1.5
LEDGER: Final = 1
CODE: Final = 1
_SPREAD: Final = 2_654_435_761
"""Takes neighbours in rank apart in place, so that hot accounts do not share pages."""


@cache
def _compile() -> tuple[Callable[..., None], Callable[..., None], Callable[..., float]]:
    # numba takes a second to import; only a benchmark pays for it.
    from numba import njit, uint64

    golden = np.uint64(0x9E3779B97F4A7C15)
    first = np.uint64(0xBF58476D1CE4E5B9)
    second = np.uint64(0x94D049BB133111EB)
    low_half = np.uint64(0xFFFF_FFFF)
    version_clear, version_4 = np.uint64(0xFFFF_FFFF_FFFF_0FFF), np.uint64(0x4000)
    variant_clear, variant_1 = np.uint64(0x3FFF_FFFF_FFFF_FFFF), np.uint64(1 << 63)

    @njit(inline="always")
    def mix(value: Any) -> Any:
        value = (value ^ (value >> uint64(30))) * first
        value = (value ^ (value >> uint64(27))) * second
        return value ^ (value >> uint64(31))

    @njit(inline="always")
    def draw(state: Any) -> Any:
        state[0] += golden
        return mix(state[0])

    @njit(nogil=True)
    def fill_accounts(words: Any, start: Any, seed: Any, tail: Any) -> None:
        for i in range(words.shape[0]):
            key = seed + uint64(2) * (uint64(start) + uint64(i))
            for word in range(2, 16):
                words[i, word] = uint64(0)
            words[i, 0] = mix((key + uint64(1)) * golden)
            words[i, 1] = mix((key + uint64(2)) * golden)
            words[i, 13] = tail[0]
            words[i, 14] = tail[1]

    @njit(nogil=True)
    def fill_transfers(
        words: Any,
        state: Any,
        seed: Any,
        account_count: Any,
        spread: Any,
        shape: Any,
        zipf: Any,
        amounts: Any,
        milliseconds: Any,
        full: Any,
        tail: Any,
    ) -> None:
        count = uint64(words.shape[0])
        accounts = uint64(account_count)
        stratum = uint64(0xFFFF_FFFF_FFFF_FFFF) // count
        for i in range(words.shape[0]):
            if milliseconds:
                random = uint64(i) * stratum + draw(state) % stratum
                words[i, 1] = uint64(milliseconds) << uint64(16) | random >> uint64(48)
                words[i, 0] = random << uint64(16) | draw(state) >> uint64(48)
            else:
                words[i, 1] = (draw(state) & version_clear) | version_4
                words[i, 0] = (draw(state) & variant_clear) | variant_1
            debit = uint64(0)
            credit = uint64(0)
            while debit == credit:
                if shape == 1:
                    debit = rank(draw(state), accounts, zipf) * spread % accounts
                    credit = rank(draw(state), accounts, zipf) * spread % accounts
                elif shape == 2:
                    debit = (draw(state) >> uint64(32)) * accounts >> uint64(32)
                else:
                    pair = draw(state)
                    debit = (pair >> uint64(32)) * accounts >> uint64(32)
                    credit = (pair & low_half) * accounts >> uint64(32)
            debit_key = seed + uint64(2) * debit
            credit_key = seed + uint64(2) * credit
            words[i, 2] = mix((debit_key + uint64(1)) * golden)
            words[i, 3] = mix((debit_key + uint64(2)) * golden)
            words[i, 4] = mix((credit_key + uint64(1)) * golden)
            words[i, 5] = mix((credit_key + uint64(2)) * golden)
            rest = draw(state)
            words[i, 6] = amounts[rest & uint64(0xFFFF)]
            words[i, 7] = uint64(0)
            words[i, 8] = uint64(0)
            words[i, 9] = uint64(0)
            words[i, 12] = draw(state)
            if full:
                words[i, 10] = draw(state)
                words[i, 11] = draw(state)
                words[i, 13] = rest >> uint64(32)
            else:
                words[i, 10] = uint64(0)
                words[i, 11] = uint64(0)
                words[i, 13] = uint64(0)
            words[i, 14] = tail[1]
            words[i, 15] = uint64(0)

    @njit(inline="always")
    def rank(random: Any, accounts: Any, zipf: Any) -> Any:
        # J. Gray et al., "Quickly generating billion-record synthetic databases", 1994.
        unit = float(random >> uint64(11)) * (1.0 / (1 << 53))
        scaled = unit * zipf[0]
        if scaled < 1.0:
            return uint64(0)
        if scaled < zipf[1]:
            return uint64(1)
        place = uint64(float(accounts) * (zipf[2] * unit - zipf[2] + 1.0) ** zipf[3])
        return min(place, accounts - uint64(1))

    @njit(nogil=True)
    def zeta(count: Any, exponent: Any) -> float:
        total = 0.0
        for i in range(count, 0, -1):
            total += 1.0 / float(i) ** exponent
        return total

    return fill_accounts, fill_transfers, zeta


class Generator:
    """Draws the accounts and transfers of one run; the same seed draws the same, but for the clock
    in ids."""

    def __init__(
        self,
        *,
        accounts: int,
        distribution: str = "uniform",
        id_order: str = "sequential",
        payload: str = "full",
        seed: int = 1,
    ) -> None:
        if not 2 <= accounts < 1 << 32:
            raise ValueError(f"{accounts} accounts: a transfer needs two, and 2^32 is too many")
        self.account_count = accounts
        self._fill_accounts, self._fill_transfers, zeta = _compile()
        self._seed = np.uint64(seed * 0x1_0000_0001 << 33 & layout.U64_MAX)
        self._state = np.array([seed], np.uint64)
        self._shape = DISTRIBUTIONS.index(distribution)
        self._ordered = id_order == "sequential"
        self._full = payload == "full"
        self._tail = np.array([0, LEDGER | CODE << 32], np.uint64)
        spread = _SPREAD
        while gcd(spread, accounts) != 1:
            spread += 2
        self._spread = np.uint64(spread)
        normal = NormalDist()
        quantiles = (np.arange(1 << 16) + 0.5) / (1 << 16)
        z = np.array([normal.inv_cdf(float(q)) for q in quantiles])
        self._amounts = np.maximum(1, AMOUNT_MEDIAN * np.exp(AMOUNT_SIGMA * z)).astype(np.uint64)
        self._zipf = np.zeros(4)
        if distribution == "zipf":
            total, exponent = zeta(accounts, ZIPF_EXPONENT), ZIPF_EXPONENT
            self._zipf[:] = (
                total,
                1.0 + 0.5**exponent,
                (1.0 - (2.0 / accounts) ** (1.0 - exponent))
                / (1.0 - zeta(2, ZIPF_EXPONENT) / total),
                1.0 / (1.0 - exponent),
            )
        self._millisecond = 0
        # Compile now, not while a clock runs; what is drawn here is thrown away.
        self.transfers(np.zeros(1, layout.TRANSFER))
        self.accounts(np.zeros(1, layout.ACCOUNT), 0)

    def accounts(self, out: np.ndarray, start: int) -> None:
        """Fill an ACCOUNT array with the accounts from place ``start`` on."""
        # ledger and code of an account lie 8 bytes after user_data_32, as in a transfer.
        self._fill_accounts(
            out.view(np.uint64).reshape(-1, 16), np.uint64(start), self._seed, self._tail
        )

    def transfers(self, out: np.ndarray) -> None:
        """Fill a TRANSFER array; ordered ids ascend from call to call."""
        milliseconds = 0
        if self._ordered:
            self._millisecond = max(time.time_ns() // 1_000_000, self._millisecond + 1)
            milliseconds = self._millisecond
        self._fill_transfers(
            out.view(np.uint64).reshape(-1, 16),
            self._state,
            self._seed,
            np.uint64(self.account_count),
            self._spread,
            self._shape,
            self._zipf,
            self._amounts,
            np.uint64(milliseconds),
            self._full,
            self._tail,
        )
