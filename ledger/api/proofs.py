"""Proofs over HTTP: what the proof room makes, asked for by id, date and name.

Making a proof reads and hashes, so it runs on the reading threads. What no checkpoint covers yet is
waited for on the event loop, where waiting costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
from aiohttp import web

from ledger import layout
from ledger.api.context import CONTEXT, REQUEST_ID, Context
from ledger.api.inputs import (
    answer,
    content_kind,
    identifier_list,
    path_id,
    reach,
    read_body,
    seconds,
    too_many,
    whole,
    words,
)
from ledger.api.problems import Problem
from ledger.errors import Unavailable
from ledger.proof.canonical import b64
from ledger.proof.entries import INDEX_MASK
from ledger.proof.export import Package, package
from ledger.proof.paths import Paths
from ledger.proof.prover import Account, Moment, Prover, Sources, proving
from ledger.proof.states import States

if TYPE_CHECKING:
    from ledger.api.reads import Reads
    from ledger.engine import Engine
    from ledger.proof.publisher import Publisher

T = TypeVar("T")

_LOG = logging.getLogger("sanyuan.api")

WAIT_S: Final = 2
"""How long a proof waits for the checkpoint that covers it, unless the request says otherwise."""
WAIT_MOST_S: Final = 60
ROOT_WAIT_S: Final = 30.0
"""A state root takes a second for some millions of accounts."""
LOOK_S: Final = 0.02
LARGE_ENTRIES: Final = 5000
"""From so many entries on, an account's statement is a large proof."""
LARGE_SAMPLE: Final = 200
SEND_PIECE_S: Final = 60.0
"""A client has so long to take a piece (1 MiB) of a package."""
ACCOUNTS_MOST: Final = 100
"""Accounts that one export has statements of."""
TILES_MOST: Final = 16
ZIP_TYPE: Final = "application/zip"
_DATE: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_TILE: Final = re.compile(r"(\d{1,10}):(\d{1,5}):(\d{1,10})", re.ASCII)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_TRANSFER: Final = layout.ENTRY_KINDS["transfer"][0]
_TRANSFER_IDS: Final = layout.NAMESPACES["transfer"][0]


class Proofs:
    """The proofs of one engine. Everything here may wait for the disk: for reading threads."""

    def __init__(self, engine: Engine, reads: Reads, publisher: Publisher | None) -> None:
        """``publisher`` None: there is no signing key, so nothing can be proven."""
        self._engine = engine
        self._reads = reads
        self._publisher = publisher
        self._log = None if publisher is None else publisher.log
        self._made: Sources | None = None

    @property
    def checkpoint(self) -> str | None:
        """The newest published checkpoint."""
        return None if self._log is None else self._log.checkpoint()

    def _sources(self) -> Sources:
        self._reads.check_ready()
        if self._log is None:
            raise Unavailable("not_provable_yet", "no signing key: this server publishes no log")
        if self._made is None:
            self._made = Sources(
                log=self._log,
                states=States(self._engine.roots),
                paths=Paths(self._engine.core.fill_account_ids),
                reader=self._engine.reader,
                entries=self._reads.entries_of,
            )
        return self._made

    @contextmanager
    def _prover(self) -> Iterator[Prover]:
        with proving(self._sources()) as prover:
            yield prover

    def _account(self, account_id: int) -> Account:
        ids = np.array([layout.from_int(account_id)], layout.U128)
        accounts, found, details = self._engine.read(
            lambda core: (*core.lookup_accounts(ids), core.account_details(account_id))
        ).result()
        if not found[0]:
            raise Problem("account_not_found", f"no account has the id {account_id}")
        ledger, code = int(accounts["ledger"][0]), int(accounts["code"][0])
        return Account(
            id=account_id,
            slot=details["slot"],
            ledger=ledger,
            code=code,
            ordinal=details["ordinal"],
            last_position=details["last_position"],
            entry_count=details["entry_count"],
        )

    def _position(self, transfer_id: int) -> int:
        """The position of a transfer's entry, from the index of ids, compared with the journal."""
        ids = np.array([layout.from_int(transfer_id)], layout.U128)
        _, hits = self._engine.store.id_records(ids, _TRANSFER_IDS)
        with self._engine.reader() as (reader, limit_block):
            for position in hits["position"][~hits["resolved"]].tolist():
                block, index = position >> layout.INDEX_BITS, position & INDEX_MASK
                if block > limit_block:
                    continue
                entry = reader.block(block).entries(index, index + 1)[0]
                if entry["kind"] == _TRANSFER and layout.to_int(entry["record"]["id"]) == (
                    transfer_id
                ):
                    return int(position)
        raise Problem("transfer_not_found", f"no transfer has the id {transfer_id}")

    # What is asked for ------------------------------------------------------------------------

    def transfer(self, transfer_id: int, hide: frozenset[str]) -> bytes:
        """Return the bundle with a transfer; ``hide``: debit, credit, metadata."""
        sources = self._sources()
        position = self._position(transfer_id)
        with proving(sources) as prover:
            prover.add_entry(position, hide)
            return prover.finish().bundle

    def account(self, account_id: int, at: Moment | None) -> bytes:
        """Return the bundle with an account's balances at a state root."""
        self._sources()
        account = self._account(account_id)
        with self._prover() as prover:
            prover.add_account(account, at)
            return prover.finish().bundle

    def statement(
        self,
        account_id: int,
        start: Moment | None,
        end: Moment | None,
        disclose: frozenset[str],
    ) -> bytes:
        """Return the bundle with an account's complete statement; ``disclose``: counterparties,
        metadata."""
        self._sources()
        account = self._account(account_id)
        with self._prover() as prover:
            prover.add_statement(
                account,
                start=start,
                end=end,
                counterparty="counterparties" in disclose,
                metadata="metadata" in disclose,
            )
            return prover.finish().bundle

    def is_large(self, account_id: int) -> bool:
        """Return whether the statement of an account may be a large proof."""
        self._sources()
        return self._account(account_id).entry_count >= LARGE_ENTRIES

    def trial_balance(self, at: Moment | None, tiles: list[tuple[int, int, int]]) -> bytes:
        """Return the bundle with the trial balance, and with tiles that are opened."""
        with self._prover() as prover:
            prover.add_trial_balance(at, tiles)
            return prover.finish().bundle

    def consistency(self, old_size: int) -> bytes:
        """Return the JSON of the path from an older size of the log."""
        with self._prover() as prover:
            size, path = prover.consistency(old_size)
        return msgspec.json.encode({"size": size, "path": b64(path)})

    def consistency_bundle(self, old_note: str) -> bytes:
        """Return the bundle with the proof that the log grew from an older checkpoint."""
        with self._prover() as prover:
            prover.add_consistency(old_note)
            return prover.finish().bundle

    def sample(
        self, count: int, seed: str | None, witness: str | None, hide: frozenset[str]
    ) -> bytes:
        """Return the bundle with a sample of entries."""
        with self._prover() as prover:
            prover.add_sample(count, seed=seed, witness=witness, hide=hide)
            return prover.finish().bundle

    def export(
        self,
        account_ids: list[int] | None,
        start: Moment | None,
        end: Moment | None,
        disclose: frozenset[str],
    ) -> Package:
        """Return the package with statements of accounts; None: the trial balance and full state.

        The caller closes it.
        """
        sources = self._sources()
        accounts = [self._account(one) for one in account_ids or ()]
        counterparty = "counterparties" in disclose
        with self._prover() as prover:
            if account_ids is None:
                prover.add_trial_balance(end)
                prover.add_full_state(end)
            for account in accounts:
                prover.add_statement(
                    account,
                    start=start,
                    end=end,
                    counterparty=counterparty,
                    metadata="metadata" in disclose,
                )
            proven = prover.finish()
        return package(
            proven,
            log=sources.log,
            states=sources.states,
            policy=self._policy(),
            counterparty=counterparty,
        )

    def _policy(self) -> bytes | None:
        return None if self._publisher is None else self._publisher.policy_copy()

    def state_roots(self) -> bytes:
        """Return the JSON of the kept state roots, oldest first."""
        sources = self._sources()
        return msgspec.json.encode(
            {
                "data": [
                    {
                        "block": root.block,
                        "timestamp": str(root.timestamp),
                        "business_date": str(Moment(date=root.business_date))
                        if root.business_date
                        else None,
                        "root": b64(root.root),
                        "interval": sources.log.interval_of_state(root.block),
                    }
                    for root in sources.states.kept()
                ]
            }
        )


# ----------------------------------------------------------------------------------------------
# Handlers
# ----------------------------------------------------------------------------------------------


async def _large(request: web.Request, make: Callable[[], T]) -> T:
    """Make a large proof, of which few are made at a time: other reads go on meanwhile."""
    context = request.app[CONTEXT]
    if context.metrics.large_proofs >= context.limits.large_proofs:
        raise too_many("large proofs")

    def made() -> T:
        if request.transport is None:  # it waited for its turn, and now nobody waits for it
            raise too_many("large proofs")
        return make()

    context.metrics.large_proofs += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(context.large_proof_pool, made)
    finally:
        context.metrics.large_proofs -= 1


async def _proven(
    request: web.Request, make: Callable[[], T], *, is_large: Callable[[], bool] = lambda: False
) -> T:
    """Make a proof on a reading thread, or where large ones are made; while no checkpoint covers
    it, wait for the next one."""
    context = request.app[CONTEXT]
    given = whole(request, "wait", bits=32)
    wait_s = WAIT_S if given is None else seconds(request, "wait", most=WAIT_MOST_S)
    await reach(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        checkpoint = context.proofs.checkpoint
        try:
            if await context.in_thread(is_large):
                return await _large(request, make)
            return await context.in_thread(make)
        except Unavailable as error:
            if error.code != "not_provable_yet" or loop.time() >= deadline:
                raise
            await _next_checkpoint(context, checkpoint, deadline)


async def _next_checkpoint(context: Context, known: str | None, deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while context.proofs.checkpoint is known and loop.time() < deadline:
        if context.stopping.is_set():
            raise Unavailable("stopping", "the server is stopping")
        await asyncio.sleep(LOOK_S)


def _moment(request: web.Request, name: str) -> Moment | None:
    """A parameter that is a business date, or the number of a block."""
    value = request.query.get(name)
    if value is None:
        return None
    date = _DATE.fullmatch(value)
    if date:
        return Moment(date=int("".join(date.groups())))
    if _WHOLE.fullmatch(value):
        return Moment(block=int(value))
    raise Problem("invalid_parameter", f"{name} must be a date, YYYY-MM-DD, or a block's number")


class _Checkpoint(msgspec.Struct, forbid_unknown_fields=True):
    checkpoint: str


_HIDE: Final = ("debit", "credit", "metadata")
_DISCLOSE: Final = ("counterparties", "metadata")


async def transfer(request: web.Request) -> web.StreamResponse:
    """GET /v1/transfers/{id}/proof"""
    proofs, transfer_id = request.app[CONTEXT].proofs, path_id(request)
    hide = words(request, "hide", _HIDE)
    return answer(await _proven(request, lambda: proofs.transfer(transfer_id, hide)))


async def account(request: web.Request) -> web.StreamResponse:
    """GET /v1/accounts/{id}/proof"""
    proofs, account_id = request.app[CONTEXT].proofs, path_id(request)
    at = _moment(request, "at")
    return answer(await _proven(request, lambda: proofs.account(account_id, at)))


async def statement(request: web.Request) -> web.StreamResponse:
    """GET /v1/accounts/{id}/statement-proof"""
    proofs, account_id = request.app[CONTEXT].proofs, path_id(request)
    start, end = _moment(request, "from"), _moment(request, "to")
    disclose = words(request, "disclose", _DISCLOSE)
    return answer(
        await _proven(
            request,
            lambda: proofs.statement(account_id, start, end, disclose),
            is_large=lambda: proofs.is_large(account_id),
        )
    )


async def trial_balance(request: web.Request) -> web.StreamResponse:
    """GET /v1/trial-balance/proof"""
    proofs, at = request.app[CONTEXT].proofs, _moment(request, "at")
    tiles: list[tuple[int, int, int]] = []
    for text in filter(None, request.query.get("tiles", "").split(",")):
        match = _TILE.fullmatch(text)
        if match is None or len(tiles) == TILES_MOST:
            raise Problem(
                "invalid_parameter", f"tiles must be at most {TILES_MOST} of ledger:code:tile"
            )
        tiles.append((int(match[1]), int(match[2]), int(match[3])))
    return answer(await _proven(request, lambda: proofs.trial_balance(at, tiles)))


async def consistency(request: web.Request) -> web.StreamResponse:
    """GET /v1/consistency-proof"""
    proofs, size = request.app[CONTEXT].proofs, whole(request, "from", bits=63)
    if size is None:
        raise Problem("invalid_parameter", "from, the size of a checkpoint, is missing")
    return answer(await _proven(request, lambda: proofs.consistency(size)))


async def consistency_bundle(request: web.Request) -> web.StreamResponse:
    """POST /v1/consistency-proof"""
    proofs = request.app[CONTEXT].proofs
    content_kind(request)
    try:
        note = msgspec.json.decode(await read_body(request), type=_Checkpoint).checkpoint
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Problem(
            "invalid_checkpoint", "the body must be an object with a checkpoint, the signed note"
        ) from None
    return answer(await _proven(request, lambda: proofs.consistency_bundle(note)))


async def sample(request: web.Request) -> web.StreamResponse:
    """GET /v1/audit/sample"""
    proofs = request.app[CONTEXT].proofs
    count = whole(request, "count", bits=32)
    seed, witness = request.query.get("seed"), request.query.get("witness")
    if count is None or (seed is None) == (witness is None):
        raise Problem("invalid_parameter", "count is needed, and either seed or witness")
    hide = words(request, "hide", _HIDE)
    return answer(
        await _proven(
            request,
            lambda: proofs.sample(count, seed, witness, hide),
            is_large=lambda: count >= LARGE_SAMPLE,
        )
    )


async def export(request: web.Request) -> web.StreamResponse:
    """GET /v1/audit/export"""
    context = request.app[CONTEXT]
    start, end = _moment(request, "from"), _moment(request, "to")
    disclose = words(request, "disclose", _DISCLOSE)
    accounts = None
    if request.query.get("account") != "all":
        accounts = identifier_list(request, "account", most=ACCOUNTS_MOST)
    made = await _proven(
        request,
        lambda: context.proofs.export(accounts, start, end, disclose),
        is_large=lambda: True,
    )
    context.metrics.large_proofs += 1  # until it is sent: what was put aside takes room
    try:
        name = "all" if accounts is None else "-".join(map(str, accounts[:1]))
        response = web.StreamResponse(
            headers={
                "Content-Type": ZIP_TYPE,
                "Content-Length": str(made.size),
                "Content-Disposition": f'attachment; filename="sanyuan-{name}.zip"',
            }
        )
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        response.headers["Server"] = "sanyuan"
        await _send(request, response, made.pieces())
        return response
    finally:
        context.metrics.large_proofs -= 1
        made.close()


async def _send(
    request: web.Request, response: web.StreamResponse, pieces: Iterator[bytes]
) -> None:
    """Send a body in pieces; break the connection when it cannot be sent, or nobody takes it."""
    context = request.app[CONTEXT]
    await response.prepare(request)
    try:
        while piece := await context.in_thread(lambda: next(pieces, b"")):
            async with asyncio.timeout(SEND_PIECE_S):
                await response.write(piece)
        await response.write_eof()
        return
    except ConnectionError:
        pass
    except TimeoutError:
        _LOG.warning("request %s: nobody takes the package", request[REQUEST_ID])
    except Exception:
        # The status line is gone: only a broken connection tells the client that much is missing.
        _LOG.exception("request %s: the package broke", request[REQUEST_ID])
    if request.transport is not None:
        request.transport.abort()


async def state_roots(request: web.Request) -> web.StreamResponse:
    """GET /v1/state-roots"""
    context = request.app[CONTEXT]
    return answer(await context.in_thread(context.proofs.state_roots))


async def make_state_root(request: web.Request) -> web.StreamResponse:
    """POST /v1/state-roots"""
    context = request.app[CONTEXT]
    context.reads.check_ready()
    wanted: Any = asyncio.wrap_future(context.engine.request_state_root())
    try:
        async with asyncio.timeout(ROOT_WAIT_S):
            block = await asyncio.shield(wanted)
    except TimeoutError:
        raise Unavailable("not_provable_yet", "the state root is still being made") from None
    return answer(msgspec.json.encode({"block": block}))
