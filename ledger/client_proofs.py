"""The client's proofs: bundles and packages as the server made them, byte for byte.

::

    bundle = await client.proofs.transfer(7)
    Path("transfer-7.json").write_bytes(bundle)     # then: python verify.py transfer-7.json ...

They are not checked here: whoever asks the server must not take the server's word, so a proof is
checked by ``verify.py`` with a policy from elsewhere. What no checkpoint covers yet is waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

Moment: TypeAlias = date | str | int
"""A business date, or the number of a block."""
Piece: TypeAlias = Callable[[bytes], object]


class Answer(Protocol):
    """What the client got."""

    @property
    def body(self) -> bytes: ...


class Call(Protocol):
    """How the client asks."""

    def __call__(
        self,
        method: str,
        path: str,
        *,
        write: bool,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[Answer]: ...


class Download(Protocol):
    """How the client takes an answer that may be larger than memory."""

    def __call__(self, path: str, params: Mapping[str, str], take: Piece) -> Awaitable[int]: ...


class StateRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A kept state root; ``interval`` is the record of the outer log that names it first."""

    block: int
    timestamp: int
    business_date: date | None
    root: str
    interval: int | None


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the newest checkpoint, and the path to it in base64."""

    size: int
    path: str


class _StateRoots(msgspec.Struct):
    data: list[StateRoot]


class _Made(msgspec.Struct):
    block: int


class ProofClient:
    """What ``Client.proofs`` is. Errors are the client's."""

    def __init__(self, call: Call, download: Download) -> None:
        self._call = call
        self._download = download

    async def transfer(self, transfer_id: Any, *, hide: Iterable[str] = ()) -> bytes:
        """Return the bundle with a transfer; ``hide``: debit, credit, metadata."""
        return await self._bundle(f"/v1/transfers/{transfer_id}/proof", hide=",".join(hide))

    async def account(self, account_id: Any, *, at: Moment | None = None) -> bytes:
        """Return the bundle with an account's balances at the newest state root, or the newest at
        or before a business date or block."""
        return await self._bundle(f"/v1/accounts/{account_id}/proof", at=at)

    async def statement(
        self,
        account_id: Any,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        disclose: Iterable[str] = (),
    ) -> bytes:
        """Return the bundle with an account's complete statement, both ends inclusive and rounded
        outwards; ``disclose``: counterparties, metadata."""
        return await self._bundle(
            f"/v1/accounts/{account_id}/statement-proof",
            **{"from": start, "to": end, "disclose": ",".join(disclose)},
        )

    async def trial_balance(
        self, *, at: Moment | None = None, tiles: Iterable[tuple[int, int, int]] = ()
    ) -> bytes:
        """Return the bundle with the trial balance; ``tiles`` are opened: ledger, code, tile."""
        opened = ",".join(":".join(map(str, tile)) for tile in tiles)
        return await self._bundle("/v1/trial-balance/proof", at=at, tiles=opened)

    async def consistency(self, old_size: int) -> ConsistencyProof:
        """Return the path from an older size of the log to its newest checkpoint."""
        body = await self._bundle("/v1/consistency-proof", **{"from": old_size})
        return msgspec.json.decode(body, type=ConsistencyProof)

    async def consistency_with(self, old_note: str) -> bytes:
        """Return the bundle that shows that the log grew from an older signed checkpoint."""
        answer = await self._call(
            "POST",
            "/v1/consistency-proof",
            body=msgspec.json.encode({"checkpoint": old_note}),
            write=False,
        )
        return answer.body

    async def sample(
        self,
        count: int,
        *,
        seed: str | None = None,
        witness: str | None = None,
        hide: Iterable[str] = (),
    ) -> bytes:
        """Return the bundle with entries drawn from all, by a text or a witness's cosignature."""
        return await self._bundle(
            "/v1/audit/sample", count=count, seed=seed, witness=witness, hide=",".join(hide)
        )

    async def export(
        self,
        accounts: Iterable[Any] | Literal["all"],
        take: Piece,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        disclose: Iterable[str] = (),
    ) -> int:
        """Give the package of accounts, or of all with the full state, to ``take`` piece by piece;
        return its size in bytes."""
        wanted = accounts if isinstance(accounts, str) else ",".join(map(str, accounts))
        params = {"account": wanted, "from": start, "to": end, "disclose": ",".join(disclose)}
        return await self._download("/v1/audit/export", _given(params), take)

    async def state_roots(self) -> list[StateRoot]:
        """Return the kept state roots, oldest first."""
        body = await self._bundle("/v1/state-roots")
        return msgspec.json.decode(body, type=_StateRoots, strict=False).data

    async def make_state_root(self) -> int:
        """Have a state root made and kept now; return its block."""
        # Making one twice costs a second and harms nothing.
        answer = await self._call("POST", "/v1/state-roots", write=False)
        return msgspec.json.decode(answer.body, type=_Made).block

    async def _bundle(self, path: str, **params: Any) -> bytes:
        answer = await self._call("GET", path, params=_given(params), write=False)
        return answer.body


def _given(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value not in (None, "")}
