"""Arrays of another run, file or folder matched with those of a run that starts from them.

An array is taken if it has the same path and shape. Three kinds are matched otherwise:

- positions of patches are resized to the grid of this run's images;
- of token embeddings and other tables with a row a token or a position the rows that both have are
  taken, if there is one for every position;
- the rows of a classification head are those of classes, and classes are matched by name.

An encoder's array that is missing, or does not fit, is an error unless `config.init_partial` asks
to initialise it; so is one of the encoder there that this run's encoder does not have.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import STACKED, by_path, is_stacked
from ssl_jax.data import class_names
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.layers import restack
from ssl_jax.models.positions import resize_positions
from ssl_jax.tasks.registry import TASKS

Loaded = dict[str, dict[str, Any]]

_SHOWN = 4
# The arrays of a classification head whose last axis counts the classes.
_CLASS_ROWS = re.compile(r"params/head/(out/)?(kernel|bias)")
_POSITIONS = "params/encoder/embed/position/embedding"
_TOKENS = ("params/encoder/embed/token/embedding", "params/token_head/bias")


@dataclasses.dataclass(frozen=True)
class Head:
    """What is known of the head there.

    Attributes:
      class_names: names of its classes by number, None where it knows none.
      task: of the labels that it was trained on, see `DataSpec`.
    """

    class_names: Sequence[str] | None = None
    task: str | None = None


@dataclasses.dataclass(frozen=True)
class Matched:
    """What a run takes.

    Attributes:
      loaded: {"params": {path: array}, "buffers": {path: array}}; an array may have fewer rows than
        the run's, whose last rows are then initialised.
      missing: paths of this run that found nothing.
      unused: paths of the other that were not used.
      notes: what was matched otherwise than by path and shape, a line each.
    """

    loaded: Loaded
    missing: list[str]
    unused: list[str]
    notes: list[str]


def match(
    arrays: Mapping[str, Any], experiment: Experiment, source: str, head: Head | None = None
) -> Matched:
    """Matches arrays by path.

    Args:
      arrays: path -> array, paths beginning with "params/" or "buffers/".
      experiment: the run that starts.
      source: the run, file or folder, for messages.
      head: what is known of the head in `arrays`; None if there is none.

    Raises:
      UserError: an array of the encoder is missing or does not fit, or a frozen head has other
        classes.
    """
    wanted = wanted_arrays(experiment)
    origins = {path: experiment.method.origin(path) for path in wanted}
    arrays = restack(arrays, [origin for origin in origins.values() if origin])
    notes: list[str] = []
    left_out: set[str] = set()
    if head is not None:
        arrays, left_out, notes = _match_head(arrays, origins, experiment, source, head)
    loaded: Loaded = {"params": {}, "buffers": {}}
    missing, used, lacking = [], set(), []
    for path, leaf in wanted.items():
        origin = origins[path]
        if origin is None or origin in left_out:
            continue
        there = arrays.get(origin)
        value = None if there is None else _fitted(origin, there, leaf.shape, experiment)
        if value is None:
            missing.append(path)
            if _is_core(path, origin):
                lacking.append(_what_is_wrong(origin, arrays, leaf, experiment))
            continue
        if origin in _TOKENS and len(there) != len(leaf) and "embed" in origin:
            notes.append(
                f"token embeddings: {min(len(there), len(leaf))} rows are taken of the "
                f"{len(there)} there, and this run's vocabulary has {len(leaf)}"
                + ("; the others are initialised" if len(there) < len(leaf) else "")
            )
        used.add(origin)
        part, _, below = path.partition("/")
        loaded[part][below] = value
    if any(loaded.values()):
        check_complete(lacking, experiment, source)
    unused = [path for path in arrays if path not in used and path not in left_out]
    check_used([path for path in unused if _is_core(path, path)], experiment, source)
    return Matched(loaded, missing, unused, notes)


def check_complete(lacking: Sequence[str], experiment: Experiment, source: str) -> None:
    """Raises UserError if arrays of the encoder are lacking and `init_partial` does not allow it.

    Args:
      lacking: what is wrong with each of them.
      experiment: the run that starts.
      source: the run, file or folder, for messages.
    """
    if not lacking or experiment.config.init_partial:
        return
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    raise UserError(
        f"init_from={source} is not this run's encoder: "
        f"{'; '.join(lacking[:_SHOWN])}{more}; set the model and the data as they are there, or "
        "initialise these arrays with --config.init_partial=True"
    )


def check_used(unused: Sequence[str], experiment: Experiment, source: str) -> None:
    """Raises UserError if arrays of the encoder there are not used, unless `init_partial` is set.

    Args:
      unused: their names. The encoder here computes something else without them.
      experiment, source: as of `check_complete`.
    """
    if not unused or experiment.config.init_partial:
        return
    more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
    raise UserError(
        f"init_from={source} is not this run's encoder, which lacks {', '.join(unused[:_SHOWN])}"
        f"{more}; set the model as it is there, or leave these arrays out with "
        "--config.init_partial=True"
    )


def wanted_arrays(experiment: Experiment) -> dict[str, Any]:
    """Path -> shape of every array of this run's weights."""
    state = experiment.abstract_state
    return flat({"params": state.params, "buffers": state.buffers})


def flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of several trees by path, the tree's name first."""
    return {
        f"{part}/{path}": leaf
        for part, tree in parts.items()
        for path, leaf in by_path(tree).items()
    }


def encoder_module(experiment: Experiment) -> Any:
    """The module that pretrained weights are for: a teacher's, or the encoder that is trained."""
    nets = experiment.method.nets()
    net = nets.get("teacher", nets.get("encoder"))
    return None if net is None else net.module


def _fitted(origin: str, value: Any, shape: tuple[int, ...], experiment: Experiment) -> Any:
    """The array in this run's shape, of tables of tokens perhaps with fewer rows; None: no fit."""
    if value.shape == shape:
        return value
    if value.ndim != len(shape):
        return None
    if origin.endswith("pos_embed/grid") and value.shape[2] == shape[2]:
        resize = encoder_module(experiment).position_resize
        return resize_positions(value, shape[:2], resize)  # images of another size
    if value.shape[1:] != shape[1:]:
        return None
    if origin in _TOKENS or (origin == _POSITIONS and len(value) > shape[0]):
        return value[: shape[0]]
    return None


def _is_core(path: str, origin: str) -> bool:
    """Whether a run cannot do without an array: it is of the encoder, or of a net that is frozen.

    A pooler is none: encoders that were not trained on pairs of sentences lack it.
    """
    frozen = path.startswith("buffers/") and origin.startswith("params/")
    if origin.startswith("params/encoder/pooler/"):
        return frozen
    return frozen or origin.startswith(("params/encoder/", "buffers/encoder/"))


def _what_is_wrong(
    origin: str, arrays: Mapping[str, Any], leaf: Any, experiment: Experiment
) -> str:
    there = arrays.get(origin)
    if there is None and is_stacked(origin):  # layers that differ in shape are not stacked
        for i in range(len(leaf)):
            layer = origin.replace(f"/{STACKED}/", f"/layer{i + 1}/", 1)
            if layer not in arrays or arrays[layer].shape != leaf.shape[1:]:
                leaf = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
                origin, there = layer, arrays.get(layer)
                break
    if there is None:
        return f"{origin} is missing"
    said = f"{origin} has shape {tuple(there.shape)}, not {tuple(leaf.shape)}"
    if origin == _POSITIONS and there.shape[1:] == leaf.shape[1:]:
        offset = encoder_module(experiment).position_offset
        said += f" (model.max_length={len(there) - offset} has that)"
    return said


def _match_head(
    arrays: Mapping[str, Any],
    origins: Mapping[str, str | None],
    experiment: Experiment,
    source: str,
    head: Head,
) -> tuple[dict[str, Any], set[str], list[str]]:
    """(arrays with the head's classes in this run's order, paths that are left out, notes)."""
    arrays = dict(arrays)
    takers = {
        origin: path for path, origin in origins.items() if _CLASS_ROWS.fullmatch(origin or "")
    }
    rows = takers.keys() & arrays.keys()
    spec, own = experiment.spec, experiment.config.data.class_names
    if not rows:
        return arrays, set(), []
    if _task(head.task) != _task(spec.task):
        reason = f"it does the task {_task(head.task)}, and this run {_task(spec.task)}"
    elif not TASKS[_task(spec.task)].has_classes:
        return arrays, set(), []
    else:
        count, theirs = arrays[min(rows)].shape[-1], head.class_names
        if theirs is not None and len(theirs) != count:
            theirs = None
        if theirs is None or own is None:
            if count == spec.num_classes:
                return arrays, set(), [_by_number(theirs, own)]
            reason = f"it tells {count} classes apart, and the data have {spec.num_classes}"
        else:
            numbers = class_names.numbers_in(own, theirs)
            if numbers is not None:
                if tuple(own) == tuple(theirs):
                    return arrays, set(), []
                for path in rows:
                    arrays[path] = np.asarray(arrays[path])[..., np.argsort(numbers)]
                return arrays, set(), ["the head's classes are brought into the order of the data"]
            reason = (
                f"its classes are {class_names.shown(theirs)}, and those of the data "
                f"{class_names.shown(own)}"
            )
    if any(takers[path].startswith("buffers/") for path in rows):
        raise UserError(
            f"init_from={source}: the head cannot be used: {reason}; use data "
            "with the classes that it was trained on"
        )
    return arrays, set(rows), [f"the head is left out and initialised: {reason}"]


def _task(task: str | None) -> str:
    """Images and texts of one class each have no task of their own."""
    return "classify" if task is None else task


def _by_number(theirs: Sequence[str] | None, own: Sequence[str] | None) -> str:
    where = " and ".join(
        place for place, names in (("there", theirs), ("in the data", own)) if names is None
    )
    return f"the head's classes are matched by number: they have no names {where}"
