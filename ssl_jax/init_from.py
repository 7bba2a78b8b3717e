"""Where a run's first weights come from, if not from chance: `config.init_from`.

    runs/simclr                 the latest checkpoint of a run
    runs/simclr@500             its checkpoint of step 500
    resnet50.safetensors        PyTorch names, torchvision's or timm's
    moco_v2_800ep_pretrain.pth  a PyTorch file, read without running what is in it
    exported/                   a folder with model.safetensors, as the export command writes it

Of a run everything is taken that the new run has too, under the same path and in the same shape:
its encoder, and its heads if the method is the same. Of a file only the encoder is.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from etils import epath

from ssl_jax import checkpoint, interchange, parallel
from ssl_jax.errors import UserError
from ssl_jax.experiment import Experiment
from ssl_jax.paths import by_path

Loaded = dict[str, dict[str, Any]]
_SHOWN = 4


def load(source: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    """The weights to start from.

    Args:
      source: see the module.
      experiment: the run that starts.

    Returns:
      (loaded, lines): {"params": {path: array}, "buffers": {path: array}}, to be given to
      `Experiment.init_state`; and what was matched and what not, for people.

    Raises:
      UserError: there is nothing at `source`, or nothing in it fits.
    """
    folder, _, step = source.partition("@")
    if (epath.Path(folder) / "config.json").exists() and (
        epath.Path(folder) / "checkpoints"
    ).exists():
        loaded, lines = _of_run(folder, step, experiment)
    else:
        inside = os.path.join(source, "model.safetensors")
        loaded, lines = _of_file(inside if os.path.isdir(source) else source, experiment)
    if not loaded["params"]:
        raise UserError(f"init_from={source}: nothing in it fits this model; {'; '.join(lines)}")
    return loaded, [f"{source}: {lines[0]}", *lines[1:]]


def _of_run(folder: str, step: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    if step and not step.isdecimal():
        raise UserError(f"init_from={folder}@{step}: after @ stands a step, a number")
    with checkpoint.Checkpointer(folder, read_only=True) as saves:
        restored = saves.restore_parameters(
            int(step) if step else None, sharding=parallel.replicated(experiment.mesh)
        )
    if restored is None:
        raise UserError(f"init_from={folder}: the run has no checkpoint yet")
    parts, at = restored
    state = experiment.abstract_state
    loaded: Loaded = {}
    fresh, unused = [], []
    for part, wanted in (("params", state.params), ("buffers", state.buffers)):
        wanted, found = by_path(wanted), by_path(parts[part])
        loaded[part] = {
            path: found[path]
            for path, leaf in wanted.items()
            if path in found and found[path].shape == leaf.shape
        }
        fresh += [path for path in wanted if path not in loaded[part]]
        unused += [path for path in found if path not in loaded[part]]
    return loaded, _lines(loaded, fresh, unused, f"step {at}, ")


def _of_file(path: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    weights, prefix = interchange.strip_prefix(interchange.read(path))
    state = experiment.abstract_state
    if "encoder" not in state.params:
        raise UserError("init_from with a file of weights needs a method that has an encoder")
    found, missing, unused = interchange.from_torch(
        weights, state.params["encoder"], state.buffers.get("encoder", {})
    )
    loaded = {
        part: {f"encoder/{name}": value for name, value in arrays.items()}
        for part, arrays in found.items()
    }
    return loaded, _lines(loaded, missing, unused, f"names below {prefix!r}, " if prefix else "")


def _lines(loaded: Loaded, fresh: list[str], unused: list[str], where: str) -> list[str]:
    taken = sum(len(arrays) for arrays in loaded.values())
    numbers = sum(int(np.prod(x.shape)) for arrays in loaded.values() for x in arrays.values())
    lines = [f"{where}{taken} arrays, {numbers:,} numbers"]
    for label, names in (("not found", fresh), ("not used", unused)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{label}: {', '.join(names[:_SHOWN])}{more}")
    return lines
