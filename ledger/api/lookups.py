"""Handlers that read: accounts, statements, transfers, look-ups, queries, the trial balance."""

from __future__ import annotations

import msgspec
from aiohttp import web

from ledger._codec import decode_ids, decode_object
from ledger.api.context import CONTEXT
from ledger.api.inputs import (
    answer,
    boolean,
    check_range,
    choice,
    content_kind,
    identifier,
    limit,
    path_id,
    reach,
    read_body,
    time,
    whole,
)
from ledger.api.problems import Problem
from ledger.api.reads import StatementFilter

PAGE_MOST = 1000
PAGE_DEFAULT = 100
_QUERIES = ("accounts", "transfers", "change_events")
_ONLY_TIMES = frozenset(("type", "cursor", "limit", "timestamp_min", "timestamp_max"))


async def account(request: web.Request) -> web.StreamResponse:
    """GET /v1/accounts/{id}"""
    context, account_id = request.app[CONTEXT], path_id(request)
    await reach(request)
    return answer(await context.in_thread(lambda: context.reads.account(account_id)))


async def balance(request: web.Request) -> web.StreamResponse:
    """GET /v1/accounts/{id}/balance"""
    context, account_id, at = request.app[CONTEXT], path_id(request), time(request, "at")
    await reach(request)
    if at is not None:
        check_range(at, 0)
    return answer(await context.in_thread(lambda: context.reads.balance_at(account_id, at)))


async def statement(request: web.Request) -> web.StreamResponse:
    """GET /v1/accounts/{id}/transfers"""
    context, account_id = request.app[CONTEXT], path_id(request)
    wanted = StatementFilter(
        side=choice(request, "side", ("debit", "credit")),
        timestamp_min=time(request, "timestamp_min") or 0,
        timestamp_max=time(request, "timestamp_max") or 0,
        user_data_128=identifier(request, "user_data_128") or 0,
        user_data_64=whole(request, "user_data_64", bits=64) or 0,
        user_data_32=whole(request, "user_data_32", bits=32) or 0,
        code=whole(request, "code", bits=16) or 0,
        reversed=boolean(request, "reversed"),
    )
    check_range(wanted.timestamp_min, wanted.timestamp_max)
    most, cursor = limit(request), request.query.get("cursor")
    await reach(request)
    body, following = await context.in_thread(
        lambda: context.reads.statement(account_id, wanted, most, cursor)
    )
    response = answer(body)
    if following is not None:
        url = request.rel_url.update_query(cursor=following)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response


async def transfer(request: web.Request) -> web.StreamResponse:
    """GET /v1/transfers/{id}"""
    context, transfer_id = request.app[CONTEXT], path_id(request)
    await reach(request)
    return answer(await context.in_thread(lambda: context.reads.transfer(transfer_id)))


async def lookup_accounts(request: web.Request) -> web.StreamResponse:
    """POST /v1/accounts/lookup"""
    context = request.app[CONTEXT]
    content_kind(request)
    ids = decode_ids(await read_body(request))
    await reach(request)
    return answer(await context.in_thread(lambda: context.reads.accounts(ids)))


async def lookup_transfers(request: web.Request) -> web.StreamResponse:
    """POST /v1/transfers/lookup"""
    context = request.app[CONTEXT]
    content_kind(request)
    ids = decode_ids(await read_body(request))
    await reach(request)
    return answer(await context.in_thread(lambda: context.reads.transfers(ids)))


async def query(request: web.Request) -> web.StreamResponse:
    """POST /v1/query"""
    context = request.app[CONTEXT]
    content_kind(request)
    wanted, raw, given = decode_object("query", await read_body(request))
    kind, cursor = _word(raw, "type"), _word(raw, "cursor")
    if kind not in _QUERIES:
        raise Problem("unknown_name", f"field type: must be {', '.join(_QUERIES)}")
    if kind == "change_events" and not given <= _ONLY_TIMES:
        extra = sorted(given - _ONLY_TIMES)
        raise Problem("invalid_filter", f"change_events has no filter {extra[0]}, only times")
    if "limit" not in given:
        wanted["limit"] = PAGE_DEFAULT
    if not 1 <= int(wanted["limit"][0]) <= PAGE_MOST:
        raise Problem("invalid_filter", f"limit must be from 1 to {PAGE_MOST}")
    check_range(int(wanted["timestamp_min"][0]), int(wanted["timestamp_max"][0]))
    await reach(request)
    body, _ = await context.in_thread(lambda: context.reads.query(kind, wanted, cursor))
    return answer(body)


def _word(raw: dict[str, bytes], name: str) -> str | None:
    if name not in raw:
        return None
    value = msgspec.json.decode(raw[name])
    if not isinstance(value, str):
        raise Problem("wrong_type", f"field {name}: must be a string")
    return value


async def trial_balance(request: web.Request) -> web.StreamResponse:
    """GET /v1/trial-balance"""
    context, ledger = request.app[CONTEXT], whole(request, "ledger", bits=32)
    await reach(request)
    return answer(await context.in_thread(lambda: context.reads.trial_balance(ledger)))
