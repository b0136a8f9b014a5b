"""Scenarios that measure the ledger, and the command group ``bench`` that runs them."""

from ledger.bench.commands import bench

__all__ = ["bench"]
