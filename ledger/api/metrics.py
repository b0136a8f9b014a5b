"""Metrics in the text format of Prometheus: base units, few labels, no dependency.

What the server counts (requests by route and status, their time) and what the engine tells of
itself. A request costs
two dictionary look-ups and a bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Final

BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ENGINE: Final = (
    ("requests", "sanyuan_engine_requests_total", "counter", "Requests answered.", 1),
    (
        "requests_turned_away",
        "sanyuan_engine_requests_turned_away_total",
        "counter",
        "Requests not taken because the queue was full.",
        1,
    ),
    ("events", "sanyuan_engine_events_total", "counter", "Events decided.", 1),
    ("refusals", "sanyuan_engine_refusals_total", "counter", "Events refused.", 1),
    ("expiries", "sanyuan_engine_expiries_total", "counter", "Pending transfers expired.", 1),
    ("blocks", "sanyuan_engine_blocks_total", "counter", "Blocks made durable.", 1),
    ("entries", "sanyuan_engine_entries_total", "counter", "Entries made durable.", 1),
    ("block_bytes", "sanyuan_engine_block_bytes_total", "counter", "Bytes of durable blocks.", 1),
    ("device_syncs", "sanyuan_engine_device_syncs_total", "counter", "Syncs of the disk.", 1),
    ("queue_requests", "sanyuan_engine_queue_requests", "gauge", "Requests waiting.", 1),
    ("queue_events", "sanyuan_engine_queue_events", "gauge", "Events waiting.", 1),
    (
        "blocks_in_flight",
        "sanyuan_engine_blocks_in_flight",
        "gauge",
        "Blocks decided and not yet durable.",
        1,
    ),
    ("accounts", "sanyuan_accounts", "gauge", "Accounts.", 1),
    ("holds", "sanyuan_open_holds", "gauge", "Open pending transfers.", 1),
    (
        "durable_timestamp",
        "sanyuan_durable_timestamp_seconds",
        "gauge",
        "Time of the last durable entry, since 1970.",
        1e-9,
    ),
    ("sealed_blocks", "sanyuan_sealed_blocks_total", "counter", "Blocks sealed.", 1),
    ("sealed_block", "sanyuan_sealed_block", "gauge", "The last sealed block; -1 for none.", 1),
    ("state_roots", "sanyuan_state_roots_total", "counter", "State roots made.", 1),
    (
        "state_root_block",
        "sanyuan_state_root_block",
        "gauge",
        "Block of the newest kept state root; -1 for none.",
        1,
    ),
    (
        "state_root_timestamp",
        "sanyuan_state_root_timestamp_seconds",
        "gauge",
        "Time of the newest kept state root, since 1970; 0 for none.",
        1e-9,
    ),
    (
        "state_root_building_ns",
        "sanyuan_state_root_building_seconds_total",
        "counter",
        "Time spent hashing and archiving state roots, beside posting.",
        1e-9,
    ),
    (
        "state_root_copying_ns",
        "sanyuan_state_root_copying_seconds_total",
        "counter",
        "Time spent copying accounts for state roots, between blocks.",
        1e-9,
    ),
    (
        "state_root_longest_step_ns",
        "sanyuan_state_root_longest_step_seconds",
        "gauge",
        "The longest time that a block waited for such copying.",
        1e-9,
    ),
    (
        "state_root_archive_bytes",
        "sanyuan_state_root_archive_bytes",
        "gauge",
        "Bytes of the archive of state roots.",
        1,
    ),
)


Family = tuple[str, str, str, Iterable[tuple[str, float]]]
"""Name, kind, doc and samples (labels, value) of a metric."""


class Metrics:
    """What one server counts. Owned by the event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.body_bytes_in_flight = 0
        self.followers = 0
        self.large_proofs = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request; ``route`` is the pattern of its path, never the path."""
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(BUCKETS_S) + 1)
            self._seconds[route] = 0.0
        buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[route] += seconds

    def seen(self) -> frozenset[tuple[str, str, int]]:
        """Return every (route, method, status) counted so far."""
        return frozenset(self._requests)

    def text(
        self,
        counters: Mapping[str, Any],
        reasons: Iterable[Mapping[str, Any]],
        more: Iterable[Family] = (),
    ) -> bytes:
        """Return the exposition of everything, with the engine's counters and reasons not to be
        ready, and more that is counted elsewhere."""
        lines: list[str] = []

        def family(name: str, kind: str, doc: str) -> None:
            lines.append(f"# HELP {name} {doc}")
            lines.append(f"# TYPE {name} {kind}")

        name = "sanyuan_http_requests_total"
        family(name, "counter", "Requests answered.")
        for (route, method, status), count in sorted(self._requests.items()):
            labels = f'route="{route}",method="{method}",status="{status}"'
            lines.append(f"{name}{{{labels}}} {count}")
        name = "sanyuan_http_request_duration_seconds"
        family(name, "histogram", "Time to answer a request.")
        for route, buckets in sorted(self._buckets.items()):
            label, total = f'route="{route}"', 0
            for bound, count in zip((*BUCKETS_S, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{label},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{label}}} {self._seconds[route]:.6f}")
            lines.append(f"{name}_count{{{label}}} {total}")
        for name, doc, value in (
            ("sanyuan_http_requests_in_flight", "Requests being answered.", self.in_flight),
            (
                "sanyuan_http_body_bytes_in_flight",
                "Bytes of bodies being read.",
                self.body_bytes_in_flight,
            ),
            ("sanyuan_http_followers", "Connections that follow the feed.", self.followers),
            ("sanyuan_http_large_proofs", "Large proofs made or waited for.", self.large_proofs),
        ):
            family(name, "gauge", doc)
            lines.append(f"{name} {value}")
        for name, metric, kind, doc, unit in _ENGINE:
            if name in counters:
                family(metric, kind, doc)
                value = counters[name]
                lines.append(f"{metric} {value if unit == 1 else value * unit}")
        self._engine_latency(lines, family, counters)
        family("sanyuan_ready", "gauge", "1 when posting is allowed.")
        codes = [str(reason["code"]) for reason in reasons]
        lines.append(f"sanyuan_ready {0 if codes else 1}")
        family("sanyuan_not_ready_reason", "gauge", "1 for each reason not to be ready.")
        lines += [f'sanyuan_not_ready_reason{{code="{code}"}} 1' for code in codes]
        for name, kind, doc, samples in more:
            family(name, kind, doc)
            lines += [
                f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
                for labels, value in samples
            ]
        return ("\n".join(lines) + "\n").encode()

    def _engine_latency(self, lines: list[str], family: Any, counters: Mapping[str, Any]) -> None:
        """The engine's histogram: bucket i counts replies in less than 2^i microseconds."""
        buckets = counters.get("latency_buckets")
        if buckets is None:
            return
        name = "sanyuan_engine_latency_seconds"
        family(name, "histogram", "Time from submit to reply.")
        total = 0
        for power, count in enumerate(buckets):
            total += count
            if power % 2 == 0 and 6 <= power <= 24:
                lines.append(f'{name}_bucket{{le="{2**power * 1e-6:.6f}"}} {total}')
        lines.append(f'{name}_bucket{{le="+Inf"}} {total}')
        lines.append(f"{name}_sum {counters['latency_sum_ns'] * 1e-9:.9f}")
        lines.append(f"{name}_count {total}")
        family(
            "sanyuan_engine_stage_seconds_total", "counter", "Time spent in each stage of a block."
        )
        for stage, spent_ns in counters.get("stage_ns", {}).items():
            lines.append(
                f'sanyuan_engine_stage_seconds_total{{stage="{stage}"}} {spent_ns * 1e-9:.6f}'
            )
