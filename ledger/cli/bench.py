"""``sanyuan bench``: the scenarios of ``ledger.bench``, imported when they are asked for."""

from __future__ import annotations

from ledger.bench import bench

__all__ = ["bench"]
