"""Handlers of the outer log: its checkpoint and tiles, as C2SP tlog-tiles serves them. Open to all,
since there is nothing in them about any customer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from ledger.api.context import CONTEXT
from ledger.api.inputs import answer
from ledger.api.problems import Problem
from ledger.proof.outer import ENTRIES, TILE_PATH

TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
MUTABLE: Final = "no-cache"
IMMUTABLE: Final = "public, max-age=31536000, immutable"


async def checkpoint(request: web.Request) -> web.StreamResponse:
    """GET /checkpoint"""
    publisher = request.app[CONTEXT].publisher
    note = None if publisher is None else publisher.log.checkpoint()
    if note is None:
        raise Problem("checkpoint_not_found", "no checkpoint was published yet")
    return answer(note.encode(), content_type=TEXT, Cache_Control=MUTABLE)


async def tile(request: web.Request) -> web.StreamResponse:
    """GET /tile/<level>/<number>[.p/<width>], GET /tile/entries/<number>[.p/<width>]"""
    context = request.app[CONTEXT]
    publisher = context.publisher
    name = request.match_info["path"]
    match = TILE_PATH.fullmatch(name)
    if match is None or publisher is None:
        raise Problem("tile_not_found", "no tile has this name")
    # The expression lets no name through that leads out of the folder.
    path = publisher.log.directory / "tile" / name
    data = await context.in_thread(lambda: _read(path))
    if data is None:
        raise Problem("tile_not_found", "this tile is not there, or not any more")
    response = answer(data, content_type=BYTES, Cache_Control=IMMUTABLE)
    if match["level"] == ENTRIES:
        response.enable_compression()
    return response


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
