"""Compiles for TPUs on machines that have none.

`devices("v5e:8x8")` are devices to compile for, with libtpu installed (`pip install
'ssl_jax[aot]'`). `ssl_jax.hardware.tpu_slices` describes the slices; its names are also found
here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.hardware.tpu_slices import GENERATIONS, GIB, Generation, Slice, generation_of, parse

__all__ = [
    "GENERATIONS",
    "GIB",
    "Generation",
    "Slice",
    "devices",
    "generation_of",
    "hbm_exceeded",
    "is_installed",
    "parse",
    "quiet",
]


def devices(topology: str | Slice) -> list[Any]:
    """Devices of a slice to compile for; no TPU is needed, nothing can run on them.

        mesh = parallel.make_mesh(devices=tpu.devices("v5e:2x2"))
        rows = NamedSharding(mesh, P("data"))
        with tpu.quiet():
            compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((8, 8), "f4", sharding=rows)).compile()

    It loads libtpu into this process, which may have any other backend, and on its first call takes
    about a second.

    Args:
      topology: a slice or one of its names.

    Raises:
      UserError: no such slice, libtpu is missing, or the installed one does not know the slice.
    """
    wanted = parse(topology) if isinstance(topology, str) else topology
    return list(_devices(wanted))


@functools.cache
def _devices(wanted: Slice) -> tuple[Any, ...]:
    from jax.experimental import topologies

    if not is_installed():
        raise UserError(
            "compiling for TPUs needs libtpu, their compiler: pip install 'ssl_jax[aot]' "
            "(Linux on x86-64)"
        )
    # libtpu must not ask Google's metadata server who it is, which takes minutes where there is
    # none, nor insist on being alone on this machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = {}
    if wanted.generation.chip_config:
        options["chip_config_name"] = wanted.generation.chip_config
    if wanted.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # else it wants the four of a host
    with quiet():
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=wanted.topology, **options
            )
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"the installed libtpu cannot compile for {wanted}: {str(error).splitlines()[0]}"
            ) from error
    return tuple(description.devices)


def is_installed() -> bool:
    """Whether libtpu, the compiler for TPUs, can be loaded."""
    return importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ


@contextlib.contextmanager
def quiet(*, always: bool = False) -> Iterator[None]:
    """To compile for `devices` in: nothing reaches standard error, nothing is cached.

    libtpu reports of itself there, from C++, at its start and while it compiles. What was written
    is shown if the body fails, except with a UserError and where a program does not fit into the
    device's memory: those are answers. Programs for devices that are not there cannot be read back
    from JAX's persistent cache.

    Args:
      always: show nothing in any case.
    """
    minimum = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, minimum)
    jax.config.update(minimum, math.inf)
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception as error:
            answer = isinstance(error, UserError) or hbm_exceeded(error) is not None
            if not answer and not always:
                sys.stderr.flush()
                log.seek(0)
                os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            jax.config.update(minimum, before)


_EXCEEDED = (
    re.compile(r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM "
               r"\(([\d.]+)([KMGT]?)\)"),
    re.compile(r"memory space hbm\. Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)  # fmt: skip


def hbm_exceeded(error: BaseException) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) of a device, from the compiler's error; None if another.

    The compiler gives up once it has traded all the time it can for memory (rematerialisation), so
    what it needs is less than what the program asks for as written. To 0.01 GiB.
    """
    for pattern in _EXCEEDED:
        match = pattern.search(str(error))
        if match and "RESOURCE_EXHAUSTED" in str(error):
            needed, unit, available, other_unit = match.groups()
            units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
            return (
                round(float(needed) * units[unit]),
                round(float(available) * units[other_unit]),
            )
    return None
