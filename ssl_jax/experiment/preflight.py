"""Describes a run before its first step: data, devices, batch, length, parameters, memory."""

from __future__ import annotations

import math
import os
from typing import Any

import jax
from jax.sharding import NamedSharding

from ssl_jax import data, modalities, optim, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.data.image_source import ImageSource
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods.base.labelled import Labelled
from ssl_jax.modalities.image import LABELS


def lines(experiment: Experiment, source: data.Source | None = None) -> list[tuple[str, str]]:
    """(label, text) pairs: devices, batch, length, parameters, optimizer, memory, method.

    Args:
      experiment: the experiment to describe.
      source: the training data; if given, their notes and share of padding are included.
    """
    config, length = experiment.config, experiment.length
    mesh = experiment.mesh
    state = experiment.abstract_state
    devices = mesh.devices.reshape(-1)
    rows = parallel.batch_shards(mesh)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    epochs = length.total_steps / length.steps_per_epoch
    run = dict(total_steps=length.total_steps, steps_per_epoch=length.steps_per_epoch)
    with jax.set_mesh(mesh):
        method_lines = experiment.method.preflight(config.batch_size)
    return [
        ("method", f"{config.method.name}, {config.model.name}, {config.dtype} activations"),
        ("data", _data(experiment)),
        ("devices", f"{devices.size} x {devices[0].device_kind} in {jax.process_count()} "
                    f"process{'es' if jax.process_count() > 1 else ''}, mesh {axes}"),
        ("batch", f"{config.batch_size} = {config.batch_size // rows} a device x {rows}"),
        *_micro_batches(experiment),
        *method_lines,
        *_padding(experiment, source),
        *_notes(experiment, source),
        ("length", ", ".join([f"{length.total_steps:,} steps = {round(epochs, 2):g} epochs of "
                              f"{length.steps_per_epoch:,} steps", *_epoch_notes(experiment)])),
        *_parameters(state.params),
        *optim.describe(experiment.groups, state.params, experiment.method.param_group,
                        batch_size=config.batch_size, **run),
        *[("note", note) for note in optim.schedule_notes(experiment.groups, **run)],
        ("state", f"{bytes_text(state_bytes_per_device(state))} a device, of it "
                  f"{bytes_text(state_bytes_per_device(state.params))} parameters"),
        *_buffers(state.buffers),
        *_evaluated(experiment),
        ("saves", f"every {length.checkpoint_every:,} steps, the latest "
                  f"{config.checkpoint.keep_latest} and the best {config.checkpoint.keep_best} by "
                  f"{config.checkpoint.best_metric}"),
    ]  # fmt: skip


def _evaluated(experiment: Experiment) -> list[tuple[str, str]]:
    average = {"ema": "the moving average", "polyak": "the Polyak average"}
    choice = experiment.config.eval.weights
    if choice == "params":
        return []
    return [("evaluation", f"of {average[choice]} of the parameters (eval.weights={choice!r})")]


def _notes(experiment: Experiment, source: data.Source | None) -> list[tuple[str, str]]:
    if source is None:
        return []
    notes = []
    # With data.labelled_fraction, the line of the data gives the number of texts with labels.
    if data.FewLabels.of(experiment.config.data) is None or isinstance(source, ImageSource):
        notes += source.notes()
    if isinstance(experiment.method, Labelled) and source.num_classes and not source.class_names:
        notes.append(
            f"the classes of {source.name} have no names: those of other data are matched by number"
        )
    return [("note", note) for note in notes]


def _data(experiment: Experiment) -> str:
    section, spec = experiment.config.data, experiment.spec
    examples = f"{spec.num_examples:,} examples"
    few = data.FewLabels.of(section)
    if few is not None:
        total = data.split_size(section)
        labelled = few.labelled(total, spec.num_classes)
        examples = (
            f"{labelled:,} labelled examples of {total:,}, the others left out"
            if few.unlabelled == "drop"
            else f"{total:,} examples, {labelled:,} of them labelled"
        )
    classes = f"{spec.num_classes} classes" if spec.num_classes else "no labels"
    if LABELS in spec.arrays:
        classes = f"{spec.arrays[LABELS].shape[0]} labels an image"
    classes += f" ({section.classes})" if section.classes is not None else ""
    return f"{section.name}[{section.split}], {examples}, {classes}"


def _padding(experiment: Experiment, source: data.Source | None) -> list[tuple[str, str]]:
    modality = modalities.of(experiment.spec)
    length = modality.units(experiment.spec)
    real = length if source is None else source.units_per_example
    if real == length:
        return []
    return [("padding", f"{1 - real / length:.1%}: of the {length} {modality.unit} of a row "
                        f"{real:.1f} are real on average")]  # fmt: skip


def _micro_batches(experiment: Experiment) -> list[tuple[str, str]]:
    config = experiment.config
    size = config.micro_batch_size
    if size is None:
        return []
    how = (
        "gradients are accumulated"
        if experiment.method.decomposes
        else "every example is encoded twice (gradient caching)"
    )
    line = f"{config.batch_size // size} x {size}; {how}"
    if any("batch_stats" in path for path in by_path(experiment.abstract_state.buffers)):
        line += f", BatchNorm statistics are those of {size} examples and not {config.batch_size}"
    return [("micro-batches", line)]


def text(pairs: list[tuple[str, str]]) -> str:
    """The pairs as aligned lines."""
    width = max(len(label) for label, _ in pairs)
    return "\n".join(f"{label:<{width}}  {content}" for label, content in pairs)


def state_bytes_per_device(tree: Any) -> int:
    """Bytes on one device of a tree of (abstract) arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def sizes(experiment: Experiment) -> dict[str, int]:
    """`trained_parameters`, frozen ones left out, and `state_bytes` of the training state."""
    state = experiment.abstract_state
    return {
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    }


def check_memory(experiment: Experiment) -> None:
    """Checks that the state of a run and a batch each fit into the memory of a local device.

    Raises:
      UserError: one of them does not.
    """
    needed, device = state_bytes_per_device(experiment.abstract_state), jax.local_devices()[0]
    available = _memory(device)
    if available is not None and needed > available:
        raise UserError(
            f"the state takes {bytes_text(needed)} a device, and {device.device_kind} has "
            f"{bytes_text(available)}; use a smaller net, or more devices with mesh.fsdp"
        )
    arrays = experiment.spec.arrays.values()
    example = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
    batch = example * experiment.config.batch_size // parallel.batch_shards(experiment.mesh)
    if available is not None and batch > available:
        raise UserError(
            f"a batch takes {bytes_text(batch)} a device, and {device.device_kind} has "
            f"{bytes_text(available)}; use smaller examples or a smaller batch_size"
        )


def _memory(device: jax.Device) -> int | None:
    """Bytes of a device's memory, None if unknown; CPU devices share the machine's memory."""
    if device.platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // len(jax.local_devices())
    return (device.memory_stats() or {}).get("bytes_limit")


def _parameters(params: Any) -> list[tuple[str, str]]:
    nets: dict[str, int] = {}
    for path, leaf in by_path(params).items():
        name = path.partition("/")[0]
        nets[name] = nets.get(name, 0) + leaf.size
    parts = ", ".join(f"{name} {count:,}" for name, count in nets.items())
    return [("parameters", f"{sum(nets.values()):,}: {parts}")]


def _buffers(buffers: Any) -> list[tuple[str, str]]:
    """The buffers with their sizes, grouped by their placement on the mesh."""
    entries: dict[str, dict[str, int]] = {}  # placement -> name -> bytes
    for path, leaf in by_path(buffers).items():
        sizes = entries.setdefault(_placement(leaf.sharding), {})
        name = path.partition("/")[0]
        sizes[name] = sizes.get(name, 0) + leaf.size * leaf.dtype.itemsize
    if not entries:
        return []
    groups = [
        ", ".join(f"{name} {bytes_text(size)}" for name, size in sizes.items()) + f" {placement}"
        for placement, sizes in entries.items()
    ]
    return [("buffers", "; ".join(groups))]


def _placement(sharding: NamedSharding) -> str:
    """The placement of an array: "split over data x fsdp" or "whole on every device"."""
    axes = [axis for entry in sharding.spec if entry for axis in
            ((entry,) if isinstance(entry, str) else entry)]  # fmt: skip
    split = [axis for axis in axes if sharding.mesh.shape[axis] > 1]
    return f"split over {' x '.join(split)}" if split else "whole on every device"


def _epoch_notes(experiment: Experiment) -> list[str]:
    sampler = data.sampler_from_config(experiment.config.data.sampler)
    return sampler.notes(experiment.spec.num_examples, experiment.config.batch_size)


def bytes_text(count: float) -> str:
    """Formats a number of bytes: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
