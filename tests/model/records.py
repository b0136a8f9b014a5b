"""Record arrays as dicts of ints."""

from __future__ import annotations

import numpy as np

from ledger import layout
from tests.model.answers import Record, Result


def dicts(array: np.ndarray) -> list[Record]:
    """Return records as dicts of ints, column by column; reserved bytes must be zero."""
    columns: dict[str, list[int]] = {}
    for name in array.dtype.names or ():
        column = array[name]
        if column.dtype == layout.U128:
            pairs = zip(column["lo"].tolist(), column["hi"].tolist(), strict=True)
            columns[name] = [low | high << 64 for low, high in pairs]
        elif column.ndim > 1:
            assert not column.any(), f"{name} is not zero"
        else:
            columns[name] = column.tolist()
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def results(array: np.ndarray) -> list[Result]:
    assert not array["reserved"].any()
    return list(zip(array["status"].tolist(), array["timestamp"].tolist(), strict=True))
