"""What a measurement was taken on, in one line: without it a figure means nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine(data_dir: Path) -> str:
    """Processor, cores, kernel, Python, the file system of the data, and how busy the machine is besides."""
    processor = next((value for key, value in pairs(Path("/proc/cpuinfo")) if key == "model name"), platform.machine())
    cores = len(os.sched_getaffinity(0))
    load = " ".join(f"{load:.2f}" for load in os.getloadavg())
    return (
        f"{processor}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"data on {file_system(data_dir)}, load average {load}"
    )


def file_system(path: Path) -> str:
    """The type of the file system that holds the path, as the kernel names it."""
    path = path.resolve()
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(mount[1], mount[2]) for mount in mounts if path.is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def pairs(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
