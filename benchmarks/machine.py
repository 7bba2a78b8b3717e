"""Prints the machine and the versions above the results of a benchmark."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import jax
from rich.table import Table


def describe(*packages: str) -> str:
    """One line: processor or accelerator, cores, Python and package versions."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else _processor()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "numpy", *packages))
    return (
        f"{len(jax.devices())} x {kind}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}, {versions}"
    )


def table(title: str, *columns: str, packages: tuple[str, ...] = ()) -> Table:
    """A table under `title` with the machine's line below it."""
    out = Table(title=title, caption=describe(*packages))
    for i, column in enumerate(columns):
        out.add_column(column, justify="left" if i == 0 else "right")
    return out


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or "CPU"
