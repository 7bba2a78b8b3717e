"""Checks whether a train step fits a TPU slice, bounds its speed, and suggests changes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax import hlo, modalities, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.hardware import tpu
from ssl_jax.hardware.tpu import GIB

# Estimates aim at this share of the memory, since they are rough.
_AIM = 0.9


@dataclasses.dataclass(frozen=True)
class Fit:
    """The outcome of compiling a train step for a slice. All figures are of one device.

    Attributes:
      slice: the slice.
      config: the resolved config.
      mesh: sizes of the mesh's axes.
      shards: parts into which the batch is split.
      state_bytes: of the training state, exact.
      batch_bytes: of the batch's arrays, exact.
      fits: whether there is room for it.
      peak_bytes: memory needed: of the compiled step, or what the compiler asked for when it gave
        up, to 0.01 GiB.
      program: what the compiled step does, None where it does not fit or cannot be read.
      compile_seconds: time it took.
      unit: what throughput counts: images or tokens.
      units: of an example, padding included.
    """

    slice: tpu.Slice
    config: ConfigDict
    mesh: dict[str, int]
    shards: int
    state_bytes: int
    batch_bytes: int
    fits: bool
    peak_bytes: int
    program: hlo.Program | None
    compile_seconds: float
    unit: str = "images"
    units: int = 1

    @property
    def usable_bytes(self) -> int:
        """Memory that a program can use."""
        return self.slice.generation.usable_hbm_bytes

    @property
    def seconds(self) -> dict[str, float]:
        """Least time a step can take for its `compute`, `hbm` and `ici` alone.

        From published peaks: bfloat16 matrix products at full rate, every byte of HBM at full
        bandwidth, all links busy. A step takes at least the longest of them.
        """
        generation, program = self.slice.generation, self.program
        if program is None:
            return {}
        share = generation.devices  # that share a chip
        return {
            "compute": program.flops / (generation.flops / share),
            "hbm": program.bytes_accessed / (generation.hbm_bandwidth / share),
            "ici": program.wire_bytes / (generation.ici_bandwidth / share),
        }

    @property
    def step_seconds_bound(self) -> float | None:
        """No step is faster than this."""
        return max(self.seconds.values(), default=None)

    @property
    def per_second_per_chip_bound(self) -> float | None:
        """No run is faster than so many of `unit`."""
        seconds = self.step_seconds_bound
        count = self.config.batch_size * self.units
        return count / seconds / self.slice.chips if seconds else None


def build(config: ConfigDict, spec: DataSpec, wanted: tpu.Slice) -> Experiment:
    """The experiment on a slice; compiles nothing yet.

    Raises:
      UserError: the config does not fit the data or the slice's devices, or libtpu is missing.
    """
    sizes = config.mesh
    mesh = parallel.make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices=tpu.devices(wanted))
    parallel.check_batch_size(config.batch_size, mesh)
    return Experiment.build(config, spec, mesh)


def check(experiment: Experiment, wanted: tpu.Slice) -> Fit:
    """Compiles the train step of `build`'s experiment; seconds to minutes."""
    state = preflight.state_bytes_per_device(experiment.abstract_state)
    batch = preflight.state_bytes_per_device(experiment.abstract_batch())
    began = time.perf_counter()
    program = None
    try:
        with tpu.quiet():
            step = experiment.compiled_train_step
        placed, peak = True, hlo.peak_bytes(step)
        # A libtpu newer than jaxlib may write programs that jaxlib does not understand.
        with contextlib.suppress(jax.errors.JaxRuntimeError), tpu.quiet(always=True):
            program = hlo.read(step)
    except jax.errors.JaxRuntimeError as error:
        exceeded = tpu.hbm_exceeded(error)
        if exceeded is None:
            raise
        placed, (peak, _) = False, exceeded
    return Fit(
        slice=wanted,
        config=experiment.config,
        mesh=dict(experiment.mesh.shape),
        shards=parallel.batch_shards(experiment.mesh),
        state_bytes=state,
        batch_bytes=batch,
        # Older compilers do not count results when they look for room.
        fits=placed and peak <= wanted.generation.usable_hbm_bytes,
        peak_bytes=peak,
        program=program,
        compile_seconds=time.perf_counter() - began,
        unit=modalities.of(experiment.spec).unit,
        units=modalities.of(experiment.spec).units(experiment.spec),
    )


def advice(fit: Fit, experiment: Experiment) -> list[str]:
    """What to change so that it fits, the least costly first; empty where it fits.

    Estimates take the state as fixed and all else as proportional to the examples a device works on
    at a time. They begin with what the compiler asked for after it had traded all the time it could
    for memory; with room again it trades less and uses more (SimCLR, ResNet-50, batch 4096 on
    v5e:2x4 in micro-batches of 2048: estimate 8.4 GiB, compiled 13.8).
    """
    if fit.fits:
        return []
    return [
        *_half_precision(fit),
        *_recompute(fit),
        *_micro_batches(fit),
        *_shard_state(fit, experiment),
        *_more_chips(fit),
        *_larger_chips(fit),
        *_smaller_batch(fit),
    ]


def _estimate(fit: Fit, *, batch: float = 1.0, activations: float = 1.0) -> float:
    """Bytes needed if the batch's arrays, or the rest beside the state, change by a factor."""
    rest = max(0, fit.peak_bytes - fit.state_bytes - fit.batch_bytes)
    return fit.state_bytes + batch * fit.batch_bytes + activations * rest


def _half_precision(fit: Fit) -> Iterator[str]:
    if fit.config.dtype == "float32":
        needed = _estimate(fit, activations=0.5)
        yield f"dtype=bfloat16: activations of half the size ({_estimated(fit, needed)})"


def _recompute(fit: Fit) -> Iterator[str]:
    if fit.config.model.get("remat") == "none":
        yield (
            "model.remat=dots: computes activations again in the backward pass instead of keeping "
            "them, but for the outputs of dense layers; full keeps none"
        )


def _micro_batches(fit: Fit) -> Iterator[str]:
    batch = fit.config.batch_size
    now = fit.config.get("micro_batch_size", None) or batch
    sizes = (batch // count for count in range(2, batch // fit.shards + 1) if batch % count == 0)
    for size in sizes:
        needed = _estimate(fit, activations=size / now)
        if size < now and size % fit.shards == 0 and needed <= _AIM * fit.usable_bytes:
            yield (
                f"micro_batch_size={size}: encodes {size // fit.shards} examples a device at a "
                f"time and each of them twice; the loss still sees all {batch} "
                f"({_estimated(fit, needed)})"
            )
            return


def _shard_state(fit: Fit, experiment: Experiment) -> Iterator[str]:
    """Exact for the state: it is laid out anew."""
    if fit.mesh["fsdp"] > 1:
        return
    devices = fit.slice.devices
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.mesh.data, config.mesh.fsdp = -1, devices // fit.mesh["tensor"]
    try:
        split = build(config, experiment.spec, fit.slice)
    except UserError:  # it does not divide
        return
    after = preflight.state_bytes_per_device(split.abstract_state)
    if after < fit.state_bytes:
        enough = fit.peak_bytes - fit.state_bytes + after <= fit.usable_bytes
        yield (
            f"mesh.fsdp={config.mesh.fsdp}: splits parameters and optimizer state over the "
            f"devices, {_gib(fit.state_bytes)} -> {_gib(after)} GiB of state a device"
            f"{'' if enough else ', not enough alone'}"
        )


def _more_chips(fit: Fit) -> Iterator[str]:
    if fit.config.mesh.data != -1:
        return
    for larger in fit.slice.generation.slices:
        shards = larger.devices // fit.mesh["tensor"]
        if shards <= fit.shards or fit.config.batch_size % shards:
            continue
        factor = fit.shards / shards
        needed = _estimate(fit, batch=factor, activations=factor)
        if needed <= _AIM * fit.usable_bytes:
            yield (
                f"--topology={larger.topology} ({larger.accelerator_type}): "
                f"{fit.config.batch_size // shards} examples a device instead of "
                f"{fit.config.batch_size // fit.shards} ({_estimated(fit, needed)})"
            )
            return


def _larger_chips(fit: Fit) -> Iterator[str]:
    """A slice of as many chips of another kind, whose memory is a fact, the need being measured."""
    found = [
        other
        for generation in tpu.GENERATIONS
        for other in generation.slices
        if other.devices == fit.slice.devices and fit.peak_bytes <= generation.usable_hbm_bytes
    ]
    if found:
        names = ", ".join(
            f"{other} {_gib(other.generation.usable_hbm_bytes)} GiB" for other in found
        )
        yield f"as many devices with more memory: {names}"


def _smaller_batch(fit: Fit) -> Iterator[str]:
    batch = fit.config.batch_size
    for size in range(batch // fit.shards - 1, 0, -1):
        factor = size * fit.shards / batch
        needed = _estimate(fit, batch=factor, activations=factor)
        if needed <= _AIM * fit.usable_bytes:
            size = 2 ** int(math.log2(size)) if size >= 8 else size
            factor = size * fit.shards / batch
            needed = _estimate(fit, batch=factor, activations=factor)
            yield (
                f"batch_size={size * fit.shards}, which is another recipe "
                f"({_estimated(fit, needed)})"
            )
            return


def _estimated(fit: Fit, needed: float) -> str:
    enough = "" if needed <= fit.usable_bytes else ", not enough alone"
    return f"estimate: {_gib(needed)} GiB or more, of {_gib(fit.usable_bytes)}{enough}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def as_json(fit: Fit, advised: list[str]) -> dict[str, Any]:
    """A fit as the command's --json prints it; see `ssl_jax.cli.aot`."""
    program = fit.program
    return {
        "topology": fit.slice.topology,
        "accelerator_type": fit.slice.accelerator_type,
        "chips": fit.slice.chips,
        "hosts": fit.slice.hosts,
        "devices": fit.slice.devices,
        "mesh": fit.mesh,
        "batch_size": fit.config.batch_size,
        "fits": fit.fits,
        "peak_bytes": fit.peak_bytes,
        "state_bytes": fit.state_bytes,
        "hbm_bytes": fit.usable_bytes,
        "hbm_capacity_bytes": fit.slice.generation.hbm_bytes // fit.slice.generation.devices,
        "flops": program and program.flops,
        "bytes_accessed": program and program.bytes_accessed,
        "wire_bytes": program and program.wire_bytes,
        "unknown_loops": program and program.unknown_loops,
        "seconds": fit.seconds,
        "step_seconds_bound": fit.step_seconds_bound,
        **{
            f"{one.unit}_per_second_per_chip_bound": (
                fit.per_second_per_chip_bound if one.unit == fit.unit else None
            )
            for one in modalities.MODALITIES.values()
        },
        "collectives": collectives_by_kind(program) if program else [],
        "temporaries": [dataclasses.asdict(one) for one in program.temporaries] if program else [],
        "advice": advised,
        "compile_seconds": fit.compile_seconds,
    }


def collectives_by_kind(program: hlo.Program) -> list[dict[str, Any]]:
    """The collectives of a step summed by kind, size of the group and whether in a loop.

    Each has `kind`, `group`, `in_loop`, `count` (executions), `bytes`, `wire_bytes`, and the
    `op_name` of the one that sends the most; the largest first.
    """
    groups: dict[tuple, list[hlo.Collective]] = {}
    for one in program.collectives:
        groups.setdefault((one.kind, one.group, one.in_loop), []).append(one)
    rows = [
        {
            "kind": kind,
            "group": group,
            "in_loop": in_loop,
            "count": sum(one.trips for one in members),
            "bytes": sum(one.bytes * one.trips for one in members),
            "wire_bytes": sum(one.wire_bytes for one in members),
            "op_name": max(members, key=lambda one: one.wire_bytes).op_name,
        }
        for (kind, group, in_loop), members in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["wire_bytes"])
