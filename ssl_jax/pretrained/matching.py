"""Matches pretrained arrays of a run, file or folder with those of the run that starts from them.

An array is loaded if it has the same path and shape. There are three exceptions:

- position embeddings of patches are resized to the grid of this run's images, and a note says so;
- of arrays with one row per token the rows that both have are loaded, and of position embeddings
  of text the first rows, if there are enough;
- the classes of a classification head are matched by name.

An array of the encoder that is missing or does not fit is an error, unless `config.init_partial` is
set, which initialises it. A pretrained array that this run's encoder does not have is an error too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.adapt.adapters import is_adapter
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import STACKED, by_path, is_stacked
from ssl_jax.data import class_names
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.layers import restack
from ssl_jax.models.positions import resize_positions
from ssl_jax.tasks.registry import TASKS

Loaded = dict[str, dict[str, Any]]

_SHOWN = 4
# The arrays of a classification head whose last axis is the class.
_CLASS_ARRAYS = re.compile(r"params/head/(out/)?(kernel|bias)")
_POSITION_EMBEDDING = "params/encoder/embed/position/embedding"
_TOKEN_EMBEDDING = "params/encoder/embed/token/embedding"
MASK_TOKEN = "params/encoder/mask_token"
# The arrays whose rows are the tokens of the vocabulary.
_TOKEN_ARRAYS = (
    _TOKEN_EMBEDDING,
    "params/encoder/output/embedding",
    "params/token_head/bias",
)


@dataclasses.dataclass(frozen=True)
class Head:
    """A description of the pretrained head.

    Attributes:
      class_names: names of its classes by number; None if they have no names.
      task: the task of the labels that it was trained on, see `DataSpec`.
    """

    class_names: Sequence[str] | None = None
    task: str | None = None


@dataclasses.dataclass(frozen=True)
class Match:
    """The arrays that a run loads.

    Attributes:
      loaded: {"params": {path: array}, "buffers": {path: array}}; an array may have fewer rows than
        the run's array, whose last rows are then initialised.
      missing: paths of this run without a pretrained array.
      unused: paths of pretrained arrays that are not loaded.
      notes: a line about each array that was not matched by path and shape.
    """

    loaded: Loaded
    missing: list[str]
    unused: list[str]
    notes: list[str]


def match(
    arrays: Mapping[str, Any], experiment: Experiment, source: str, head: Head | None = None
) -> Match:
    """Matches pretrained arrays with those of a run.

    Args:
      arrays: path -> pretrained array; paths begin with "params/" or "buffers/".
      experiment: the run that starts.
      source: the run, file or folder, for messages.
      head: describes the head in `arrays`; None if there is none.

    Raises:
      UserError: an array of the encoder is missing or does not fit, or a frozen head has other
        classes.
    """
    own_arrays = abstract_weights(experiment)
    origins = {path: experiment.method.origin(path) for path in own_arrays}
    arrays = restack(arrays, [origin for origin in origins.values() if origin])
    notes: list[str] = []
    skipped: set[str] = set()
    if head is not None:
        arrays, skipped, notes = _match_head(arrays, origins, experiment, source, head)
    loaded: Loaded = {"params": {}, "buffers": {}}
    missing, used, problems = [], set(), []
    for path, leaf in own_arrays.items():
        origin = origins[path]
        if origin is None or origin in skipped:
            continue
        pretrained = arrays.get(origin)
        value = None if pretrained is None else _fitted(origin, pretrained, leaf.shape, experiment)
        if value is None:
            missing.append(path)
            if _is_required(path, origin):
                problems.append(_problem(origin, arrays, leaf, experiment))
            continue
        if origin == _TOKEN_EMBEDDING and len(pretrained) != len(leaf):
            notes.append(
                f"token embeddings: {min(len(pretrained), len(leaf))} of the {len(pretrained)} "
                f"pretrained rows are loaded; this run's vocabulary has {len(leaf)}"
                + (", of which the others are initialised" if len(pretrained) < len(leaf) else "")
            )
        if origin.endswith("pos_embed/grid") and pretrained.shape != leaf.shape:
            (rows, columns), own = pretrained.shape[:2], leaf.shape
            notes.append(f"positions: resized from {rows}x{columns} to {own[0]}x{own[1]} patches")
        used.add(origin)
        part, _, below = path.partition("/")
        loaded[part][below] = value
    if any(loaded.values()):
        check_complete(problems, experiment, source)
    unused = [path for path in arrays if path not in used and path not in skipped]
    check_used([path for path in unused if _is_required(path, path)], experiment, source)
    return Match(loaded, missing, unused, notes)


def check_complete(problems: Sequence[str], experiment: Experiment, source: str) -> None:
    """Raises UserError if arrays of the encoder cannot be loaded, unless `init_partial` is set.

    Args:
      problems: a description of what is wrong with each array.
      experiment: the run that starts.
      source: the run, file or folder, for messages.
    """
    if not problems or experiment.config.init_partial:
        return
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise UserError(
        f"init_from={source} does not fit this run's encoder: "
        f"{'; '.join(problems[:_SHOWN])}{more}; use the pretrained model's settings of model and "
        "data, or initialise these arrays with --config.init_partial=True"
    )


def check_used(unused: Sequence[str], experiment: Experiment, source: str) -> None:
    """Raises UserError if pretrained encoder arrays are unused, unless `init_partial` is set.

    Args:
      unused: the names of the arrays, without which this run's encoder computes something else.
      experiment, source: as for `check_complete`.
    """
    if not unused or experiment.config.init_partial:
        return
    more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
    raise UserError(
        f"init_from={source} does not fit this run's encoder, which lacks "
        f"{', '.join(unused[:_SHOWN])}{more}; use the pretrained model's settings of model, or "
        "skip these arrays with --config.init_partial=True"
    )


def summary(matched: Match, source_note: str) -> list[str]:
    """The summary of a match for the user.

    Args:
      matched: the match.
      source_note: text before the number of arrays, e.g. "step 10, ".
    """
    arrays = [x for part in matched.loaded.values() for x in part.values()]
    numbers = sum(int(np.prod(x.shape)) for x in arrays)
    lines = [f"{source_note}{len(arrays)} arrays, {numbers:,} numbers", *matched.notes]
    for label, names in (("not found", matched.missing), ("not used", matched.unused)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{label}: {', '.join(names[:_SHOWN])}{more}")
    return lines


def abstract_weights(experiment: Experiment) -> dict[str, Any]:
    """Path -> shape and dtype of every array of this run's weights."""
    state = experiment.abstract_state
    return flat({"params": state.params, "buffers": state.buffers})


def flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> array of several trees; the path begins with the name of the tree."""
    return {
        f"{part}/{path}": leaf
        for part, tree in parts.items()
        for path, leaf in by_path(tree).items()
    }


def encoder_module(experiment: Experiment) -> Any:
    """The module of the encoder that weights are loaded into: the teacher if there is one."""
    nets = experiment.method.nets()
    net = nets.get("teacher", nets.get("encoder"))
    return None if net is None else net.module


def _fitted(origin: str, value: Any, shape: tuple[int, ...], experiment: Experiment) -> Any:
    """The pretrained array in this run's shape; None if it does not fit.

    Arrays of tokens may have fewer rows than this run's.
    """
    if value.shape == shape:
        return value
    if value.ndim != len(shape):
        return None
    if origin.endswith("pos_embed/grid") and value.shape[2] == shape[2]:
        resize = encoder_module(experiment).position_resize
        return resize_positions(value, shape[:2], resize)  # for images of another size
    if value.shape[1:] != shape[1:]:
        return None
    if origin in _TOKEN_ARRAYS or (origin == _POSITION_EMBEDDING and len(value) > shape[0]):
        return value[: shape[0]]
    return None


def _is_required(path: str, origin: str) -> bool:
    """Whether a run needs a pretrained array: it belongs to the encoder or to a frozen net.

    The pooler is optional, because encoders that were not trained on sentence pairs have none. So
    are the mask token of images, which changes no features, and adapters.
    """
    if is_adapter(path):
        return False
    is_frozen = path.startswith("buffers/") and origin.startswith("params/")
    if origin.startswith("params/encoder/pooler/") or origin == MASK_TOKEN:
        return is_frozen
    return is_frozen or origin.startswith(("params/encoder/", "buffers/encoder/"))


def _problem(origin: str, arrays: Mapping[str, Any], leaf: Any, experiment: Experiment) -> str:
    """Why an array cannot be loaded: it is missing or has another shape."""
    pretrained = arrays.get(origin)
    if pretrained is None and is_stacked(origin):  # layers of different shapes are not stacked
        for i in range(len(leaf)):
            layer = origin.replace(f"/{STACKED}/", f"/layer{i + 1}/", 1)
            if layer not in arrays or arrays[layer].shape != leaf.shape[1:]:
                leaf = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
                origin, pretrained = layer, arrays.get(layer)
                break
    if pretrained is None:
        return f"{origin} is missing"
    problem = f"{origin} has shape {tuple(pretrained.shape)}, not {tuple(leaf.shape)}"
    if origin == _POSITION_EMBEDDING and pretrained.shape[1:] == leaf.shape[1:]:
        offset = encoder_module(experiment).position_offset
        problem += f" (set model.max_length={len(pretrained) - offset})"
    return problem


def _match_head(
    arrays: Mapping[str, Any],
    origins: Mapping[str, str | None],
    experiment: Experiment,
    source: str,
    head: Head,
) -> tuple[dict[str, Any], set[str], list[str]]:
    """(arrays with the head's classes in this run's order, paths that are skipped, notes)."""
    arrays = dict(arrays)
    own_paths = {
        origin: path for path, origin in origins.items() if _CLASS_ARRAYS.fullmatch(origin or "")
    }
    head_paths = own_paths.keys() & arrays.keys()
    spec, own_names = experiment.spec, experiment.config.data.class_names
    if not head_paths:
        return arrays, set(), []
    if _task(head.task) != _task(spec.task):
        reason = f"its task is {_task(head.task)}, and this run's is {_task(spec.task)}"
    elif not TASKS[_task(spec.task)].has_classes:
        return arrays, set(), []
    else:
        count, head_names = arrays[min(head_paths)].shape[-1], head.class_names
        if head_names is not None and len(head_names) != count:
            head_names = None
        if head_names is None or own_names is None:
            if count == spec.num_classes:
                return arrays, set(), [_matched_by_number(head_names, own_names)]
            reason = f"it has {count} classes, and the data have {spec.num_classes}"
        else:
            numbers = class_names.numbers_in(own_names, head_names)
            if numbers is not None:
                if tuple(own_names) == tuple(head_names):
                    return arrays, set(), []
                for path in head_paths:
                    arrays[path] = np.asarray(arrays[path])[..., np.argsort(numbers)]
                return arrays, set(), ["the head's classes are reordered to match the data"]
            reason = (
                f"its classes are {class_names.shown(head_names)}, and those of the data are "
                f"{class_names.shown(own_names)}"
            )
    if any(own_paths[path].startswith("buffers/") for path in head_paths):
        raise UserError(
            f"init_from={source}: the head cannot be used: {reason}; use data "
            "with the classes that it was trained on"
        )
    return arrays, set(head_paths), [f"the head is not loaded but initialised: {reason}"]


def _task(task: str | None) -> str:
    """The task; images and texts with one class have the task classify, written as None."""
    return "classify" if task is None else task


def _matched_by_number(head_names: Sequence[str] | None, own_names: Sequence[str] | None) -> str:
    places = " and ".join(
        place
        for place, names in (("in the head", head_names), ("in the data", own_names))
        if names is None
    )
    return f"the head's classes are matched by number: they have no names {places}"
