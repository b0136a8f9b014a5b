"""JSON schemas of bundles and of what else the proof routes answer; docs/proofs.md says what each
field holds."""

from __future__ import annotations

from typing import Any, Final

from ledger.api.schemas import DATE, Schema, array, closed, decimal, nullable, ref

_B64: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
_HEX: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]+$"}
_PLACE: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
_TEXT: Final[Schema] = {"type": "string"}
_TRUTH: Final[Schema] = {"type": "boolean"}


def _item(name: str, properties: dict[str, Any], doc: str) -> Schema:
    kind: Schema = {"type": "string", "enum": [name]}
    return closed({"type": kind, **properties}, doc=doc)


_SIDE: Final = {
    "anyOf": [
        {"type": "null"},
        _B64,
        closed({"account": decimal(), "number": decimal(size_bytes=8), "salt": _B64}),
    ]
}
_EXT: Final = {"anyOf": [{"type": "null"}, _B64, closed({"salt": _B64, "metadata": _TEXT})]}
_ITEMS: Final = (
    _item(
        "entry",
        {
            "block": _PLACE,
            "index": _PLACE,
            "kind": _PLACE,
            "record": _B64,
            "released": decimal(),
            "debit": _SIDE,
            "credit": _SIDE,
            "ext": _EXT,
            "path": _B64,
        },
        "an entry of the journal",
    ),
    _item(
        "erased",
        {"block": _PLACE, "index": _PLACE, "leaf": _B64, "path": _B64},
        "an entry of which only the leaf is left",
    ),
    _item(
        "account",
        {
            "state": _PLACE,
            "group": _PLACE,
            "leaf": _B64,
            "tile_path": _B64,
            "sums": _B64,
            "sum_path": _B64,
            "newest": _TRUTH,
        },
        "an account's balances at a state root",
    ),
    _item(
        "statement",
        {
            "account": decimal(),
            "opening": nullable(_PLACE),
            "closing": _PLACE,
            "entries": array(_B64),
        },
        "all entries of an account between two state roots",
    ),
    _item("trial_balance", {"state": _PLACE}, "the sums of all groups at a state root"),
    _item(
        "tile",
        {
            "state": _PLACE,
            "group": _PLACE,
            "tile": _PLACE,
            "leaves": array(_B64),
            "sums": _B64,
            "sum_path": _B64,
        },
        "256 accounts, opened",
    ),
    _item("full_state", {"state": _PLACE, "file": _TEXT}, "every account at a state root"),
    _item("consistency", {"old": _TEXT, "path": _B64}, "the log grew from an older checkpoint"),
    _item(
        "sample",
        {
            "count": _PLACE,
            "seed": nullable(_TEXT),
            "witness": nullable(_TEXT),
            "items": array(_PLACE),
        },
        "entries drawn from all",
    ),
)

PROOF_COMPONENTS: Final[dict[str, Schema]] = {
    "Bundle": closed(
        {
            "format": {"type": "string", "enum": ["sanyuan bundle v1"]},
            "sha256": _HEX,
            "origin": _TEXT,
            "instance": _HEX,
            "checkpoint": _TEXT,
            "intervals": array(closed({"index": _PLACE, "record": _TEXT, "path": _B64})),
            "blocks": array(closed({"interval": _PLACE, "header": _B64, "path": _B64})),
            "states": array(
                {
                    "anyOf": [
                        closed({"interval": _PLACE, "block": _PLACE, "groups": array(_B64)}),
                        closed(
                            {
                                "interval": _PLACE,
                                "block": _PLACE,
                                "group_count": _PLACE,
                                "index": _PLACE,
                                "group": _B64,
                                "path": _B64,
                            }
                        ),
                    ]
                }
            ),
            "items": array({"anyOf": list(_ITEMS)}),
        },
        doc="Proofs under one signed checkpoint, in canonical JSON: docs/proofs.md. Check them"
        " with verify.py, not with the server.",
    ),
    "OldCheckpoint": closed(
        {"checkpoint": _TEXT}, doc="An older checkpoint of this log, the signed note."
    ),
    "ConsistencyProof": closed({"size": _PLACE, "path": _B64}),
    "StateRoots": closed(
        {
            "data": array(
                closed(
                    {
                        "block": _PLACE,
                        "timestamp": decimal(size_bytes=8),
                        "business_date": nullable({"type": "string", "pattern": DATE}),
                        "root": _B64,
                        "interval": nullable(_PLACE),
                    }
                )
            )
        },
        doc="The kept state roots, oldest first; interval: the first record of the outer log that"
        " names it, null until there is one.",
    ),
    "MadeStateRoot": closed({"block": _PLACE}),
}
BUNDLE: Final = ref("Bundle")
