"""The knobs of a ledger process: one frozen dataclass, from TOML, then environment, then flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ledger import layout
from ledger.errors import ConfigurationError

MIB = 1 << 20
GIB = 1 << 30


def _knob(default: int, unit: str, low: int, high: int, doc: str) -> Any:
    return field(default=default, metadata={"unit": unit, "low": low, "high": high, "doc": doc})


@dataclass(frozen=True, slots=True)
class Config:
    """All knobs, each with a unit and a range; unknown names and values out of range are
    refused."""

    queue_requests: int = _knob(1024, "requests", 1, 1 << 20, "requests that may wait for a block")
    queue_events: int = _knob(262_144, "events", 8190, 1 << 24, "events that may wait for a block")
    blocks_in_flight: int = _knob(4, "blocks", 1, 64, "blocks decided ahead of the disk")
    block_entries: int = _knob(
        16_384, "entries", 8190, layout.BLOCK_ENTRIES_MAX, "events after which a block is closed"
    )
    block_bytes: int = _knob(
        layout.BLOCK_BYTES_MAX, "B", MIB, 64 * MIB, "bytes of events in one block"
    )
    holds: int = _knob(1 << 22, "holds", 1, 1 << 30, "open pending transfers")
    recent_ids: int = _knob(
        1 << 21, "ids", 1 << 10, 1 << 28, "ids in the recent table before a run"
    )
    disk_reserve_bytes: int = _knob(GIB, "B", 0, 1 << 44, "free disk below which posting stops")
    write_ahead_bytes: int = _knob(256 * MIB, "B", 0, 16 * GIB, "space written ahead with zeros")
    snapshot_bytes_per_second: int = _knob(
        64 * MIB, "B/s", MIB, 16 * GIB, "rate at which the snapshot is written"
    )
    snapshot_interval_ms: int = _knob(
        5000, "ms", 1, 3_600_000, "between the beginnings of two passes of the snapshot"
    )
    seal_interval_ms: int = _knob(
        800, "ms", 10, 60_000, "between two seals, each the end of an interval of the outer log"
    )
    state_root_interval_s: int = _knob(
        3600, "s", 0, 1 << 31, "between two state roots; 0 for those of business-day ends only"
    )
    clock_jump_ns: int = _knob(5_000_000_000, "ns", 10**6, 10**12, "clock step that stops posting")
    body_bytes: int = _knob(8 * MIB, "B", 1 << 16, 256 * MIB, "largest HTTP request body")
    body_timeout_s: int = _knob(30, "s", 1, 3600, "time in which a request body must arrive")

    def __post_init__(self) -> None:
        for knob in fields(self):
            value, meta = getattr(self, knob.name), knob.metadata
            if not isinstance(value, int) or not meta["low"] <= value <= meta["high"]:
                raise ConfigurationError(
                    f"{knob.name} = {value!r}: must be a whole number of {meta['unit']}"
                    f" from {meta['low']} to {meta['high']}"
                )


def load(
    path: Path | None = None, environment: Mapping[str, str] | None = None, **flags: int | None
) -> Config:
    """Return the configuration of a TOML file, overridden by SANYUAN_* variables, then by flags
    that are not None.

    Raises ConfigurationError for an unreadable file, an unknown name or a value out of range.
    """
    values: dict[str, Any] = {}
    names = {knob.name for knob in fields(Config)}
    if path is not None:
        try:
            values.update(tomllib.loads(path.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
    for name in names:
        text = (os.environ if environment is None else environment).get("SANYUAN_" + name.upper())
        if text is not None:
            try:
                values[name] = int(text)
            except ValueError as error:
                raise ConfigurationError(
                    f"SANYUAN_{name.upper()} = {text!r}: not a whole number"
                ) from error
    values.update({name: value for name, value in flags.items() if value is not None})
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigurationError(f"unknown configuration: {', '.join(unknown)}")
    return Config(**values)
