"""Compiles for TPUs on machines that have none.

`devices("v5e:8x8")` returns devices that `jax.jit` can compile for. It needs libtpu (`pip install
'ssl_jax[aot]'`). `ssl_jax.hardware.tpu_slices` describes the slices; this module re-exports it.
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
    """Descriptions of a slice's devices to compile for. No TPU is needed; programs cannot run.

        mesh = parallel.make_mesh(devices=tpu.devices("v5e:2x2"))
        rows = NamedSharding(mesh, P("data"))
        with tpu.quiet():
            compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((8, 8), "f4", sharding=rows)).compile()

    The first call loads libtpu into this process, which takes about a second. JAX may use any
    backend.

    Args:
      topology: a slice or one of its names.

    Raises:
      UserError: the slice does not exist, libtpu is missing, or it does not support the slice.
    """
    return list(_devices(parse(topology) if isinstance(topology, str) else topology))


@functools.cache
def _devices(tpu_slice: Slice) -> tuple[Any, ...]:
    from jax.experimental import topologies

    if not is_installed():
        raise UserError(
            "compiling for TPUs needs libtpu, their compiler: pip install 'ssl_jax[aot]' "
            "(Linux on x86-64)"
        )
    # Without these, libtpu queries Google's metadata server, which takes minutes on a machine that
    # has none, and refuses to load twice on a machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = {}
    if tpu_slice.generation.chip_config:
        options["chip_config_name"] = tpu_slice.generation.chip_config
    if tpu_slice.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # the default is four chips per host
    with quiet():
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=tpu_slice.topology, **options
            )
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"the installed libtpu cannot compile for {tpu_slice}: {str(error).splitlines()[0]}"
            ) from error
    return tuple(description.devices)


def is_installed() -> bool:
    """Whether libtpu, the compiler for TPUs, can be loaded."""
    return importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ


@contextlib.contextmanager
def quiet(*, always: bool = False) -> Iterator[None]:
    """A context to compile for `devices` in: hides standard error and disables the cache.

    libtpu logs to standard error, from C++, when it starts and when it compiles. If the body fails,
    the hidden output is printed, except after a UserError or if a program does not fit into the
    device's memory, which are expected results. JAX's persistent cache cannot load programs for
    devices that are not present.

    Args:
      always: never print the hidden output.
    """
    minimum = "jax_persistent_cache_min_compile_time_secs"
    old_minimum = getattr(jax.config, minimum)
    jax.config.update(minimum, math.inf)
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception as error:
            is_expected = isinstance(error, UserError) or hbm_exceeded(error) is not None
            if not is_expected and not always:
                sys.stderr.flush()
                log.seek(0)
                os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            jax.config.update(minimum, old_minimum)


_EXCEEDED = (
    re.compile(r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM "
               r"\(([\d.]+)([KMGT]?)\)"),
    re.compile(r"memory space hbm\. Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)  # fmt: skip


def hbm_exceeded(error: BaseException) -> tuple[int, int] | None:
    """(needed, available) bytes of a device, from the compiler's error; None for other errors.

    The compiler reports the need after all possible rematerialisation, so it is less than the need
    of the program as written. The precision is 0.01 GiB.
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
