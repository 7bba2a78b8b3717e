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

# Estimates are rough, so advice leaves a tenth of the memory free.
_TARGET_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of compiling a train step for a slice. Bytes are of one device.

    Attributes:
      slice: the slice.
      config: the resolved config.
      mesh: axis name -> size of the mesh.
      shards: number of parts into which the batch is split.
      state_bytes: size of the training state, exact.
      batch_bytes: size of the arrays of the batch, exact.
      fits: whether the step fits into the memory.
      peak_bytes: memory that the step needs: of the compiled step, or, if it does not fit, what the
        compiler reports, to 0.01 GiB.
      program: the compiled step; None if it does not fit or cannot be read.
      compile_seconds: duration of the compilation.
      unit: the unit of throughput, "images" or "tokens".
      units: number of units in an example, including padding.
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
        """Memory of a device that a program can use."""
        return self.slice.generation.usable_hbm_bytes

    @property
    def seconds(self) -> dict[str, float]:
        """Lower bounds of a step's seconds, by `compute`, `hbm` and `ici` (links between chips).

        They follow from the published peaks: bfloat16 matrix products at the full rate, HBM traffic
        at the full bandwidth, all links busy. A step takes at least the longest of them. Empty
        without a program.
        """
        generation, program = self.slice.generation, self.program
        if program is None:
            return {}
        devices_per_chip = generation.devices
        return {
            "compute": program.flops / (generation.flops / devices_per_chip),
            "hbm": program.bytes_accessed / (generation.hbm_bandwidth / devices_per_chip),
            "ici": program.wire_bytes / (generation.ici_bandwidth / devices_per_chip),
        }

    @property
    def step_seconds_bound(self) -> float | None:
        """Lower bound of the seconds per step; None without a program."""
        return max(self.seconds.values(), default=None)

    @property
    def per_second_per_chip_bound(self) -> float | None:
        """Upper bound of `unit` per second and chip; None without a program."""
        seconds = self.step_seconds_bound
        count = self.config.batch_size * self.units
        return count / seconds / self.slice.chips if seconds else None


def build(config: ConfigDict, spec: DataSpec, tpu_slice: tpu.Slice) -> Experiment:
    """Builds the experiment for the devices of a slice, without compiling.

    Args:
      config: the resolved config.
      spec: shapes and facts of the training data.
      tpu_slice: the slice.

    Raises:
      UserError: the config does not fit the data or the slice's devices, or libtpu is missing.
    """
    sizes = config.mesh
    mesh = parallel.make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices=tpu.devices(tpu_slice))
    parallel.check_batch_size(config.batch_size, mesh)
    return Experiment.build(config, spec, mesh)


def check(experiment: Experiment, tpu_slice: tpu.Slice) -> Fit:
    """Compiles the train step, which takes seconds to minutes, and reports whether it fits.

    Args:
      experiment: the result of `build`.
      tpu_slice: the slice it was built for.
    """
    state_bytes = preflight.state_bytes_per_device(experiment.abstract_state)
    batch_bytes = preflight.state_bytes_per_device(experiment.abstract_batch())
    start = time.perf_counter()
    program = None
    try:
        with tpu.quiet():
            step = experiment.compiled_train_step
        is_placed, peak_bytes = True, hlo.peak_bytes(step)
        # jaxlib cannot always read the programs of a newer libtpu.
        with contextlib.suppress(jax.errors.JaxRuntimeError), tpu.quiet(always=True):
            program = hlo.read(step)
    except jax.errors.JaxRuntimeError as error:
        exceeded = tpu.hbm_exceeded(error)
        if exceeded is None:
            raise
        is_placed, (peak_bytes, _) = False, exceeded
    return Fit(
        slice=tpu_slice,
        config=experiment.config,
        mesh=dict(experiment.mesh.shape),
        shards=parallel.batch_shards(experiment.mesh),
        state_bytes=state_bytes,
        batch_bytes=batch_bytes,
        # Older compilers do not count the results, so their success is not enough.
        fits=is_placed and peak_bytes <= tpu_slice.generation.usable_hbm_bytes,
        peak_bytes=peak_bytes,
        program=program,
        compile_seconds=time.perf_counter() - start,
        unit=modalities.of(experiment.spec).unit,
        units=modalities.of(experiment.spec).units(experiment.spec),
    )


def advice(fit: Fit, experiment: Experiment) -> list[str]:
    """Changes that make the step fit, the cheapest first; empty if it fits.

    The estimates take the state as fixed, and the remaining memory as proportional to the number of
    examples that a device processes at a time. They start from the compiler's figure, which already
    includes all rematerialisation. With more room the compiler rematerialises less and uses more
    memory than the estimate (SimCLR, ResNet-50, batch 4096 on v5e:2x4 in micro-batches of 2048:
    estimate 8.4 GiB, compiled 13.8 GiB).

    Args:
      fit: the result of `check`.
      experiment: the experiment that was checked.
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
    """Bytes that the step needs if the sizes of batch and activations change by these factors."""
    activation_bytes = max(0, fit.peak_bytes - fit.state_bytes - fit.batch_bytes)
    return fit.state_bytes + batch * fit.batch_bytes + activations * activation_bytes


def _half_precision(fit: Fit) -> Iterator[str]:
    if fit.config.dtype == "float32":
        needed = _estimate(fit, activations=0.5)
        yield f"dtype=bfloat16: halves the size of the activations ({_estimate_text(fit, needed)})"


def _recompute(fit: Fit) -> Iterator[str]:
    if fit.config.model.get("remat") == "none":
        yield (
            "model.remat=dots: recomputes activations in the backward pass instead of storing "
            "them, except the outputs of dense layers; full stores none"
        )


def _micro_batches(fit: Fit) -> Iterator[str]:
    batch = fit.config.batch_size
    current = fit.config.get("micro_batch_size", None) or batch
    sizes = (batch // count for count in range(2, batch // fit.shards + 1) if batch % count == 0)
    for size in sizes:
        needed = _estimate(fit, activations=size / current)
        if size < current and size % fit.shards == 0 and needed <= _TARGET_SHARE * fit.usable_bytes:
            yield (
                f"micro_batch_size={size}: encodes {size // fit.shards} examples per device at a "
                f"time, and each example twice; the loss still uses all {batch} "
                f"({_estimate_text(fit, needed)})"
            )
            return


def _shard_state(fit: Fit, experiment: Experiment) -> Iterator[str]:
    """The size of the state is exact, from its new shardings."""
    if fit.mesh["fsdp"] > 1:
        return
    devices = fit.slice.devices
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.mesh.data, config.mesh.fsdp = -1, devices // fit.mesh["tensor"]
    try:
        sharded = build(config, experiment.spec, fit.slice)
    except UserError:  # the batch does not divide over the devices
        return
    sharded_bytes = preflight.state_bytes_per_device(sharded.abstract_state)
    if sharded_bytes < fit.state_bytes:
        is_enough = fit.peak_bytes - fit.state_bytes + sharded_bytes <= fit.usable_bytes
        yield (
            f"mesh.fsdp={config.mesh.fsdp}: splits parameters and optimizer state over the "
            f"devices, {_gib(fit.state_bytes)} -> {_gib(sharded_bytes)} GiB of state per device"
            f"{'' if is_enough else ', not enough alone'}"
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
        if needed <= _TARGET_SHARE * fit.usable_bytes:
            yield (
                f"--topology={larger.topology} ({larger.accelerator_type}): "
                f"{fit.config.batch_size // shards} examples per device instead of "
                f"{fit.config.batch_size // fit.shards} ({_estimate_text(fit, needed)})"
            )
            return


def _larger_chips(fit: Fit) -> Iterator[str]:
    """Slices with as many devices of another generation, by the need that the compiler reports."""
    larger_slices = [
        other
        for generation in tpu.GENERATIONS
        for other in generation.slices
        if other.devices == fit.slice.devices and fit.peak_bytes <= generation.usable_hbm_bytes
    ]
    if larger_slices:
        names = ", ".join(
            f"{other} {_gib(other.generation.usable_hbm_bytes)} GiB" for other in larger_slices
        )
        yield f"the same number of devices with more memory: {names}"


def _smaller_batch(fit: Fit) -> Iterator[str]:
    batch = fit.config.batch_size
    for size in range(batch // fit.shards - 1, 0, -1):
        factor = size * fit.shards / batch
        needed = _estimate(fit, batch=factor, activations=factor)
        if needed <= _TARGET_SHARE * fit.usable_bytes:
            size = 2 ** int(math.log2(size)) if size >= 8 else size
            factor = size * fit.shards / batch
            needed = _estimate(fit, batch=factor, activations=factor)
            yield (
                f"batch_size={size * fit.shards}, which changes the training recipe "
                f"({_estimate_text(fit, needed)})"
            )
            return


def _estimate_text(fit: Fit, needed: float) -> str:
    remark = "" if needed <= fit.usable_bytes else ", not enough alone"
    return f"estimate: {_gib(needed)} GiB or more, of {_gib(fit.usable_bytes)}{remark}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def as_json(fit: Fit, advice_lines: list[str]) -> dict[str, Any]:
    """The JSON object of a fit that `ssl_jax aot --json` prints, see `ssl_jax.cli.aot`."""
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
            f"{modality.unit}_per_second_per_chip_bound": (
                fit.per_second_per_chip_bound if modality.unit == fit.unit else None
            )
            for modality in modalities.MODALITIES.values()
        },
        "collectives": collectives_by_kind(program) if program else [],
        "temporaries": [dataclasses.asdict(array) for array in program.temporaries]
        if program
        else [],
        "advice": advice_lines,
        "compile_seconds": fit.compile_seconds,
    }


def collectives_by_kind(program: hlo.Program) -> list[dict[str, Any]]:
    """The collectives of a step, summed by kind, group size and whether they are in a loop.

    Returns:
      Rows with `kind`, `group`, `in_loop`, `count` (executions), `bytes`, `wire_bytes`, and the
      `op_name` of the collective that sends the most bytes. The largest `wire_bytes` come first.
    """
    groups: dict[tuple, list[hlo.Collective]] = {}
    for collective in program.collectives:
        key = collective.kind, collective.group, collective.in_loop
        groups.setdefault(key, []).append(collective)
    rows = [
        {
            "kind": kind,
            "group": group,
            "in_loop": in_loop,
            "count": sum(member.trips for member in members),
            "bytes": sum(member.bytes * member.trips for member in members),
            "wire_bytes": sum(member.wire_bytes for member in members),
            "op_name": max(members, key=lambda member: member.wire_bytes).op_name,
        }
        for (kind, group, in_loop), members in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["wire_bytes"])
