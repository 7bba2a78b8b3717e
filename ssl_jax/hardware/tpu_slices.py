"""TPU slices that can be rented: chips, topologies and names in each service.

A slice has two interchangeable names: its topology (`v5e:8x8`) and its accelerator type
(`v5litepod-64`). The number of an accelerator type counts chips for some generations and cores for
others (`v4-32` has 16 chips).

This module imports only the standard library, so that launching from a laptop does not need JAX.
`ssl_jax.hardware.tpu` compiles for these slices.
"""

from __future__ import annotations

import dataclasses
import math
import re

from ssl_jax.core.errors import UserError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """A TPU generation. Throughputs and capacities are per chip unless noted otherwise.

    Attributes:
      name: as in topologies, e.g. "v5e".
      accelerator: prefix of accelerator types, e.g. "v5litepod".
      counts_cores: whether the number of an accelerator type counts TensorCores, else chips.
      device_kinds: prefixes of `jax.Device.device_kind`.
      cores: TensorCores per chip.
      devices: JAX devices per chip; 1 if the cores of a chip act as one device ("megacore").
      flops: published dense bfloat16 FLOP/s.
      hbm_bytes: published memory.
      usable_hbm_bytes: memory that programs of ONE DEVICE can use. Source: the compiler's error
        message for a program that is too large (libtpu 0.0.51; 0.0.42 reports up to 0.01 GiB more).
      hbm_bandwidth: published bytes/s.
      ici_bandwidth: published bytes/s that a chip can send to its neighbours over all links.
      host_chips: chips per host in a slice of several hosts.
      largest_host_chips: chips of the largest slice with a single host.
      shapes: shapes of the slices that can be rented, smallest first.
      chip_config: compiler option that makes a chip one device; None if none is needed.
      runtime_version: software version of TPU VMs for JAX; None if Cloud TPU does not offer the
        generation as TPU VMs.
      gke_accelerator: value of GKE's node label `cloud.google.com/gke-tpu-accelerator`; None if GKE
        does not offer the generation.
      gke_single_host: the label's value for slices with a single host; None if it is the same.
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
    runtime_version: str | None
    gke_accelerator: str | None
    gke_single_host: str | None = None

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The slices that can be rented, smallest first."""
        return tuple(Slice(self, shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Connected chips that are rented together, e.g. v5e:8x8.

    Attributes:
      generation: the generation of the chips.
      shape: number of chips along each axis, e.g. "8x8".
    """

    generation: Generation
    shape: str

    @property
    def topology(self) -> str:
        """The name for compilers and GKE: `v5e:8x8`."""
        return f"{self.generation.name}:{self.shape}"

    @property
    def accelerator_type(self) -> str:
        """The name in Cloud TPU: `v5litepod-64`."""
        number = self.chips * (self.generation.cores if self.generation.counts_cores else 1)
        return f"{self.generation.accelerator}-{number}"

    @property
    def chips(self) -> int:
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def hosts(self) -> int:
        """Number of hosts, each of which runs one process of a job."""
        if self.chips <= self.generation.largest_host_chips:
            return 1
        return self.chips // self.generation.host_chips

    @property
    def host_chips(self) -> int:
        """Number of chips per host."""
        return self.chips // self.hosts

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.generation.devices

    @property
    def gke_accelerator(self) -> str:
        """GKE's node label for the slice.

        Raises:
          UserError: GKE does not offer the generation.
        """
        generation = self.generation
        name = (
            generation.gke_single_host if self.hosts == 1 else None
        ) or generation.gke_accelerator
        if name is None:
            offered = ", ".join(other.name for other in GENERATIONS if other.gke_accelerator)
            raise UserError(f"GKE does not offer {generation.name}; it offers {offered}")
        return name

    @property
    def runtime_version(self) -> str:
        """Software version for a TPU VM with this slice.

        Raises:
          UserError: Cloud TPU does not offer the generation as TPU VMs.
        """
        if self.generation.runtime_version is None:
            offered = ", ".join(other.name for other in GENERATIONS if other.runtime_version)
            raise UserError(
                f"Cloud TPU does not offer {self.generation.name} as TPU VMs, only {offered}"
            )
        return self.generation.runtime_version

    def __str__(self) -> str:
        return f"{self.topology} ({self.accelerator_type})"


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

# Published figures are from the pages of Cloud TPU's documentation on each generation; the link
# bandwidths of v2 and v3 are from Jouppi et al., "A domain-specific supercomputer for training deep
# neural networks" (2020).
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
        runtime_version="tpu-ubuntu2204-base",
        gke_accelerator=None,
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
        runtime_version="tpu-ubuntu2204-base",
        gke_accelerator="tpu-v3-slice",
        gke_single_host="tpu-v3-device",
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
        runtime_version="tpu-ubuntu2204-base",
        gke_accelerator="tpu-v4-podslice",
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
        runtime_version="v2-alpha-tpuv5-lite",
        gke_accelerator="tpu-v5-lite-podslice",
    ),
    Generation(
        name="v5p",
        accelerator="v5p",
        counts_cores=True,
        device_kinds=(
            "TPU v5p",
            "TPU v5",
        ),  # after v5e, because "TPU v5 lite" has the prefix "TPU v5"
        cores=2,
        devices=1,
        flops=459e12,
        hbm_bytes=96 * GIB,  # the documentation gives 95, but the compiler can use more
        usable_hbm_bytes=round(95.73 * GIB),
        hbm_bandwidth=2765e9,
        ici_bandwidth=600e9,
        shapes=(
            *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
            *("8x8x16", "8x16x16", "16x16x16", "16x16x24"),
        ),
        runtime_version="v2-alpha-tpuv5",
        gke_accelerator="tpu-v5p-slice",
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
        runtime_version="v2-alpha-tpuv6e",
        gke_accelerator="tpu-v6e-slice",
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
        runtime_version=None,
        gke_accelerator="tpu7x",
    ),
)

# Other common names of generations.
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
      UserError: the slice does not exist; the message lists the slices of the generation.
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
        size = candidate.shape if separator == ":" else candidate.accelerator_type.split("-")[1]
        if match[2] == size:
            return candidate
    listing = ", ".join(str(candidate) for candidate in generation.slices)
    raise UserError(
        f"unknown TPU topology {name!r}; slices of {generation.name}: {listing}."
        f"{_nearest_slice(generation, match[2], separator)}"
    )


def _nearest_slice(generation: Generation, size: str, separator: str) -> str:
    """` Did you mean ...?` with the slice of the closest number of chips."""
    if separator == ":":
        axes = [int(axis) for axis in size.split("x") if axis]
        chips = math.prod(axes)
    elif size.isdigit():
        chips = int(size) / (generation.cores if generation.counts_cores else 1)
    else:
        return ""
    closest = min(generation.slices, key=lambda other: abs(math.log(other.chips / max(chips, 0.5))))
    name = closest.topology if separator == ":" else closest.accelerator_type
    return f" Did you mean {name!r}?"
