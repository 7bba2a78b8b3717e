"""The TPUs one can rent: chips, slices and both of their names; and their compiler.

A slice has two names, which stand for each other everywhere: its topology (`v5e:8x8`) and its
accelerator type (`v5litepod-64`), whose number counts chips for some generations and cores for
others (`v4-32` has 16 chips).

`devices("v5e:8x8")` are devices to compile for on a machine that has no TPU, with libtpu installed
(`pip install 'ssl_jax[aot]'`).
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from ssl_jax.errors import UserError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """A TPU generation. Throughputs and capacities are of one chip unless said otherwise.

    Attributes:
      name: as in topologies, e.g. "v5e".
      accelerator: what accelerator types begin with, e.g. "v5litepod".
      counts_cores: whether the number of an accelerator type counts TensorCores, else chips.
      device_kinds: what `jax.Device.device_kind` begins with.
      cores: TensorCores a chip.
      devices: JAX devices a chip: 1 where the cores of a chip work as one ("megacore").
      flops: published dense bfloat16 FLOP/s.
      hbm_bytes: published memory.
      usable_hbm_bytes: memory that programs of ONE DEVICE can use. Where it comes from: the
        compiler's own message for a program that is too large (libtpu 0.0.51; 0.0.42 says up to
        0.01 GiB more).
      hbm_bandwidth: published bytes/s.
      ici_bandwidth: published bytes/s that a chip can send to its neighbours, all links together.
      host_chips: chips a host of a slice of several hosts has.
      largest_host_chips: chips of the largest slice that is a single host.
      shapes: the slices that can be rented, smallest first.
      chip_config: argument of the compiler that makes a chip one device, None where it is not
        needed.
    """

    name: str
    accelerator: str
    counts_cores: bool
    device_kinds: tuple[str, ...]
    cores: int
    devices: int
    flops: float
    hbm_bytes: int
    usable_hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    host_chips: int = 4
    largest_host_chips: int = 4
    shapes: tuple[str, ...]
    chip_config: str | None = None

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The slices that can be rented, smallest first."""
        return tuple(Slice(self, shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are rented together, e.g. v5e:8x8.

    Attributes:
      generation: of its chips.
      shape: its chips along each axis, e.g. "8x8".
    """

    generation: Generation
    shape: str

    @property
    def topology(self) -> str:
        """Its name for compilers and GKE: `v5e:8x8`."""
        return f"{self.generation.name}:{self.shape}"

    @property
    def accelerator_type(self) -> str:
        """Its name when one asks Cloud TPU for it: `v5litepod-64`."""
        number = self.chips * (self.generation.cores if self.generation.counts_cores else 1)
        return f"{self.generation.accelerator}-{number}"

    @property
    def chips(self) -> int:
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def hosts(self) -> int:
        """Virtual machines, each of which runs one process of a job."""
        if self.chips <= self.generation.largest_host_chips:
            return 1
        return self.chips // self.generation.host_chips

    @property
    def devices(self) -> int:
        """JAX devices."""
        return self.chips * self.generation.devices

    def __str__(self) -> str:
        return f"{self.topology} ({self.accelerator_type})"


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

# Published figures: the pages of Cloud TPU's documentation on each generation; the links of v2 and
# v3 from Jouppi et al., "A domain-specific supercomputer for training deep neural networks" (2020).
GENERATIONS = (
    Generation(
        name="v2",
        accelerator="v2",
        counts_cores=True,
        device_kinds=("TPU v2",),
        cores=2,
        devices=2,
        flops=45e12,
        hbm_bytes=16 * GIB,
        usable_hbm_bytes=round(7.48 * GIB),
        hbm_bandwidth=700e9,
        ici_bandwidth=248e9,
        shapes=("2x2", "4x4", "8x8", "8x16", "16x16"),
    ),
    Generation(
        name="v3",
        accelerator="v3",
        counts_cores=True,
        device_kinds=("TPU v3",),
        cores=2,
        devices=2,
        flops=123e12,
        hbm_bytes=32 * GIB,
        usable_hbm_bytes=round(15.48 * GIB),
        hbm_bandwidth=900e9,
        ici_bandwidth=328e9,
        shapes=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    ),
    Generation(
        name="v4",
        accelerator="v4",
        counts_cores=True,
        device_kinds=("TPU v4",),
        cores=2,
        devices=1,
        flops=275e12,
        hbm_bytes=32 * GIB,
        usable_hbm_bytes=round(30.75 * GIB),
        hbm_bandwidth=1200e9,
        ici_bandwidth=300e9,
        shapes=(
            *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
            *("8x8x12", "8x8x16", "8x16x16"),
        ),
        chip_config="megacore",  # without it the compiler makes each core a device
    ),
    Generation(
        name="v5e",
        accelerator="v5litepod",
        counts_cores=False,
        device_kinds=("TPU v5 lite", "TPU v5e"),
        cores=1,
        devices=1,
        flops=197e12,
        hbm_bytes=16 * GIB,
        usable_hbm_bytes=round(15.75 * GIB),
        hbm_bandwidth=819e9,
        ici_bandwidth=200e9,
        largest_host_chips=8,
        shapes=_SQUARES,
    ),
    Generation(
        name="v5p",
        accelerator="v5p",
        counts_cores=True,
        device_kinds=("TPU v5p", "TPU v5"),  # after v5e's, whose "TPU v5 lite" begins like it
        cores=2,
        devices=1,
        flops=459e12,
        hbm_bytes=96 * GIB,  # the documentation says 95, the compiler finds more than that
        usable_hbm_bytes=round(95.73 * GIB),
        hbm_bandwidth=2765e9,
        ici_bandwidth=600e9,
        shapes=(
            *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
            *("8x8x16", "8x16x16", "16x16x16", "16x16x24"),
        ),
    ),
    Generation(
        name="v6e",
        accelerator="v6e",
        counts_cores=False,
        device_kinds=("TPU v6 lite", "TPU v6e"),
        cores=1,
        devices=1,
        flops=918e12,
        hbm_bytes=32 * GIB,
        usable_hbm_bytes=round(31.24 * GIB),
        hbm_bandwidth=1638e9,
        ici_bandwidth=400e9,
        largest_host_chips=8,
        shapes=_SQUARES,
    ),
    Generation(
        name="tpu7x",
        accelerator="tpu7x",
        counts_cores=True,
        device_kinds=("TPU7x",),
        cores=2,
        devices=2,
        flops=2307e12,
        hbm_bytes=192 * GIB,
        usable_hbm_bytes=round(94.74 * GIB),
        hbm_bandwidth=7380e9,
        ici_bandwidth=600e9,
        shapes=("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    ),
)

# What people write for a generation besides its two names.
_ALIASES = {"v5lite": "v5e", "v7x": "tpu7x", "trillium": "v6e", "ironwood": "tpu7x"}


def generation_of(device_kind: str) -> Generation | None:
    """The generation of a device by its `jax.Device.device_kind`, None if it is no known TPU."""
    for generation in GENERATIONS:
        if device_kind.startswith(generation.device_kinds):
            return generation
    return None


def parse(name: str) -> Slice:
    """The slice of that name: a topology (`v5e:8x8`) or an accelerator type (`v5litepod-64`).

    Raises:
      UserError: there is none; the message lists the slices of the generation meant.
    """
    match = re.fullmatch(r"([a-z]+[0-9a-z]*?)(?::|-)([0-9x]+)", name.strip().lower())
    words = {word: generation for generation in GENERATIONS
             for word in (generation.name, generation.accelerator)}  # fmt: skip
    words |= {alias: words[generation] for alias, generation in _ALIASES.items()}
    if not match or match[1] not in words:
        word = match[1] if match else re.split("[:-]", name.strip().lower())[0]
        examples = ", ".join(str(generation.slices[1]) for generation in GENERATIONS)
        raise UserError(
            f"unknown TPU topology {name!r}; write a topology or an accelerator type, such as "
            f"{examples}.{nearest(word, words)}"
        )
    generation = words[match[1]]
    separator = name.strip()[match.end(1)]
    for candidate in generation.slices:
        wanted = candidate.shape if separator == ":" else candidate.accelerator_type.split("-")[1]
        if match[2] == wanted:
            return candidate
    listing = ", ".join(str(candidate) for candidate in generation.slices)
    raise UserError(
        f"unknown TPU topology {name!r}; slices of {generation.name}: {listing}."
        f"{_nearest_slice(generation, match[2], separator)}"
    )


def _nearest_slice(generation: Generation, size: str, separator: str) -> str:
    """` Did you mean ...?` for the slice whose number of chips is closest."""
    if separator == ":":
        axes = [int(axis) for axis in size.split("x") if axis]
        chips = math.prod(axes)
    elif size.isdigit():
        chips = int(size) / (generation.cores if generation.counts_cores else 1)
    else:
        return ""
    closest = min(generation.slices, key=lambda one: abs(math.log(one.chips / max(chips, 0.5))))
    meant = closest.topology if separator == ":" else closest.accelerator_type
    return f" Did you mean {meant!r}?"


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
