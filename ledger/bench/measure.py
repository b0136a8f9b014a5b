"""What a benchmark measures beside the clock: processor, memory, disk and the machine itself."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import ConfigurationError

MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
WRITTEN_AHEAD_FREE_BYTES: Final = 256 << 20
"""Space written ahead up to here is not counted as disk used."""


def file_system(path: Path) -> str:
    """Return the type of the file system that holds ``path``, as /proc/self/mountinfo names it."""
    place, kind = Path("/"), "unknown"
    resolved = path.resolve()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4].replace("\\040", " "))
        if resolved.is_relative_to(mount) and len(mount.parts) >= len(place.parts):
            place, kind = mount, right.split()[0]
    return kind


def real_disk(path: Path) -> Path:
    """Return ``path``; raise ConfigurationError when it lies in memory, where a sync costs
    nothing."""
    kind = file_system(path)
    if kind in MEMORY_FILE_SYSTEMS:
        raise ConfigurationError(f"{path} is on {kind}: a benchmark needs a real disk")
    return path


def machine(directory: Path) -> dict[str, object]:
    """Return what the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": file_system(directory),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def anonymous_memory(process: int | str = "self") -> int:
    """Return the anonymous memory of a process, bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status tells no RssAnon")


def cpu_seconds(*, children: bool = False) -> float:
    """Return the processor time of this process, or of its children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def process_cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written_bytes(process: int | str = "self") -> int:
    """Return how many bytes a process has caused to be written to disks."""
    for line in Path(f"/proc/{process}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{process}/io tells no write_bytes")


def allocated_bytes(directory: Path) -> int:
    """Return the disk blocks that the files of a directory have, in bytes."""
    return sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())


def used_bytes(directory: Path, written_ahead: int) -> int:
    """Return the disk that a ledger uses: allocated blocks, without the first 256 MiB written
    ahead."""
    return allocated_bytes(directory) - min(written_ahead, WRITTEN_AHEAD_FREE_BYTES)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long requests took from submit to reply."""

    nanoseconds: np.ndarray

    def milliseconds(self) -> dict[str, float]:
        """Return p50, p99, p999 and max in milliseconds."""
        if not len(self.nanoseconds):
            return {"p50": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}
        p50, p99, p999 = np.percentile(self.nanoseconds, (50, 99, 99.9))
        values = {"p50": p50, "p99": p99, "p999": p999, "max": self.nanoseconds.max()}
        return {name: round(float(value) / 1e6, 3) for name, value in values.items()}
