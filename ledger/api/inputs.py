"""What a request says: its body, its parameters, what it accepts and prefers."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from aiohttp import web

from ledger import layout
from ledger._codec import CONTENT_TYPES, parse_id, parse_time
from ledger.api.context import CONTEXT, Context
from ledger.api.problems import Problem

JSON: Final = "application/json"
_POSITION: Final = re.compile(r"([0-9]{1,13}):([0-9]{1,7})", re.ASCII)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)
POSITION_WAIT_S: Final = 2.0
"""How long a read waits for min_position; what a server acknowledged is there at once."""


async def read_body(request: web.Request) -> bytes:
    """Return the whole body; raise body_too_large, body_timeout or malformed_body."""
    context = request.app[CONTEXT]
    most = context.config.body_bytes
    declared = request.content_length
    if declared is not None and declared > most:
        raise Problem("body_too_large", f"{declared} bytes; at most {most}")
    reserved = most if declared is None else declared
    if context.metrics.body_bytes_in_flight + reserved > context.limits.body_bytes:
        raise too_many("bytes of bodies")
    context.metrics.body_bytes_in_flight += reserved
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(context.config.body_timeout_s):
            return await request.read()
    except TimeoutError:
        seconds = context.config.body_timeout_s
        raise Problem(
            "body_timeout",
            f"the body was not complete after {seconds} s",
            headers={"Connection": "close"},
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise Problem("body_too_large", f"more than {most} bytes") from None
    except web.RequestPayloadError:
        # What follows on this connection cannot be told from the body.
        request.content.feed_eof()
        raise Problem(
            "malformed_body",
            "the transfer coding or compression is broken",
            headers={"Connection": "close"},
        ) from None
    finally:
        context.metrics.body_bytes_in_flight -= reserved


def too_many(what: str) -> Problem:
    """Return the problem for more of something at once than the server takes."""
    return Problem("too_many_requests", f"too many {what} at once", headers={"Retry-After": "1"})


def content_kind(request: web.Request, *, binary: str | None = None) -> bool:
    """Return whether the body is in the binary form of a kind; raise unsupported_media_type unless
    that or JSON."""
    content_type = request.content_type
    if "Content-Type" in request.headers:
        if content_type == JSON and (request.charset or "utf-8").lower() in ("utf-8", "utf8"):
            return False
        if binary is not None and content_type == CONTENT_TYPES[binary]:
            return True
    takes = JSON if binary is None else f"{JSON} or {CONTENT_TYPES[binary]}"
    given = request.headers.get("Content-Type")
    raise Problem(
        "unsupported_media_type",
        f"Content-Type is {given[:100]!r}; it must be {takes}"
        if given
        else f"Content-Type is missing; it must be {takes}",
    )


def accepts_results(request: web.Request) -> bool:
    """Whether the answer to a write is wanted in binary."""
    return CONTENT_TYPES["results"] in request.headers.get("Accept", "")


def preferences(request: web.Request) -> dict[str, str]:
    """Return the preferences of RFC 7240 in the request: {name: value}."""
    given: dict[str, str] = {}
    for header in request.headers.getall("Prefer", ()):
        for part in header.split(","):
            name, _, value = part.partition(";")[0].partition("=")
            given.setdefault(name.strip().lower(), value.strip().strip('"').lower())
    return given


def boolean(request: web.Request, name: str) -> bool:
    """Return a parameter that is true or false, false when it is not given."""
    value = request.query.get(name) if request.query_string else None
    if value in (None, "false"):
        return False
    if value == "true":
        return True
    raise Problem("invalid_parameter", f"{name} must be true or false")


def choice(request: web.Request, name: str, values: tuple[str, ...]) -> str | None:
    """Return a parameter that is one of a few words, or None."""
    value = request.query.get(name)
    if value is None or value in values:
        return value
    raise Problem("invalid_parameter", f"{name} must be {' or '.join(values)}")


def whole(request: web.Request, name: str, *, bits: int) -> int | None:
    """Return a parameter that is a whole number of so many bits, or None."""
    value = request.query.get(name)
    if value is None:
        return None
    if not _WHOLE.fullmatch(value) or int(value) >> bits:
        raise Problem("invalid_parameter", f"{name} must be a whole number below 2^{bits}")
    return int(value)


def seconds(request: web.Request, name: str, *, most: int) -> int:
    """Return a parameter that is a number of seconds, 0 when it is not given."""
    value = whole(request, name, bits=32) or 0
    if value > most:
        raise Problem("invalid_parameter", f"{name} must be at most {most} seconds")
    return value


def time(request: web.Request, name: str) -> int | None:
    """Return a parameter that is a time, in ns, or None."""
    value = request.query.get(name)
    if value is None:
        return None
    try:
        found: int = parse_time(value)
    except ValueError as error:
        raise Problem("invalid_parameter", f"{name} {error}") from None
    return found


def identifier(request: web.Request, name: str) -> int | None:
    """Return a parameter that is an id, or None."""
    value = request.query.get(name)
    if value is None:
        return None
    try:
        found: int = parse_id(value)
    except ValueError as error:
        raise Problem("invalid_parameter", f"{name} {error}") from None
    return found


def identifier_list(request: web.Request, name: str, *, most: int) -> list[int]:
    """Return a parameter that is ids with commas between them, each once."""
    found: dict[int, None] = {}
    for text in request.query.get(name, "").split(","):
        try:
            found.setdefault(parse_id(text))
        except ValueError as error:
            raise Problem("invalid_parameter", f"{name} {error}") from None
    if len(found) > most:
        raise Problem("invalid_parameter", f"{name} has {len(found)} ids; at most {most}")
    return list(found)


def words(request: web.Request, name: str, values: tuple[str, ...]) -> frozenset[str]:
    """Return a parameter that is some of a few words, with commas between them."""
    given = frozenset(filter(None, request.query.get(name, "").split(",")))
    if not given <= set(values):
        raise Problem("invalid_parameter", f"{name} must be some of {', '.join(values)}")
    return given


def path_id(request: web.Request) -> int:
    """Return the id in the path; raise invalid_id."""
    try:
        found: int = parse_id(request.match_info["id"])
    except ValueError as error:
        raise Problem("invalid_id", f"the id in the path {error}") from None
    return found


def limit(request: web.Request, *, default: int = 100, most: int = 1000) -> int:
    """Return the parameter limit; raise invalid_filter for 0 and beyond what a page holds."""
    value = whole(request, "limit", bits=32)
    if value is None:
        return default
    if not 1 <= value <= most:
        raise Problem("invalid_filter", f"limit must be from 1 to {most}")
    return value


def check_range(timestamp_min: int, timestamp_max: int) -> None:
    """Raise invalid_filter for a range of times that holds none."""
    if timestamp_max and timestamp_min > timestamp_max:
        raise Problem("invalid_filter", "timestamp_min is after timestamp_max")
    if max(timestamp_min, timestamp_max) > layout.TIMESTAMP_MAX:
        raise Problem("invalid_filter", "a time is beyond the year 2262")


def position(request: web.Request, name: str) -> int | None:
    """Return a parameter that is a position, ``block:index`` or the whole number of it, or None."""
    value = request.query.get(name) if request.query_string else None
    if value is None:
        return None
    pair = _POSITION.fullmatch(value)
    if pair and int(pair[2]) < 1 << layout.INDEX_BITS:
        found = layout.position(int(pair[1]), int(pair[2]))
        if found <= layout.TIMESTAMP_MAX:
            return found
    elif _WHOLE.fullmatch(value) and int(value) <= layout.TIMESTAMP_MAX:
        return int(value)
    raise Problem("invalid_parameter", f"{name} must be a position, block:index")


def position_text(value: int) -> str:
    """Return a position as answers write it."""
    return f"{value >> layout.INDEX_BITS}:{value & (1 << layout.INDEX_BITS) - 1}"


async def reach(request: web.Request) -> None:
    """Wait until min_position, if it is given, is durable; raise position_ahead when it does not
    come."""
    wanted = position(request, "min_position")
    if wanted is not None:
        await reach_position(request.app[CONTEXT], wanted, "min_position")


async def reach_position(context: Context, wanted: int, name: str) -> None:
    """Wait a little until a position is durable; raise position_ahead when it does not come."""
    engine = context.engine
    if wanted <= engine.durable_position:
        return
    try:
        async with asyncio.timeout(POSITION_WAIT_S):
            await engine.wait_durable_async(wanted)
    except TimeoutError:
        here = engine.durable_position
        at = position_text(here) if here >= 0 else "nothing"
        raise Problem(
            "position_ahead", f"{name} is {position_text(wanted)}; durable is {at}"
        ) from None


def answer(body: bytes, *, content_type: str = JSON, **headers: str) -> web.Response:
    """Return a 200 answer with a body."""
    named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(body=body, headers={"Content-Type": content_type, **named})
