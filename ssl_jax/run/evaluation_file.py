"""Files of `ssl_jax evaluate`, workdir/evaluations/<step>_<data>.json, in which evaluations add up.

    step, data, weights, feature    what the file is about
    checkpoint                      fingerprint of the checkpoint's arrays
    knn/top1, linear/top1 ...       figures, "evaluation/metric"
    baselines                       {row: figures} of other representations
    settings                        {evaluation: {"options": ..., "data": ...}}: with what its
                                    figures were measured
    not_computed                    {evaluation: why it failed}, of those without a figure

A figure is replaced by the next one of the same evaluation and row; all others stay. An evaluation
has one set of settings: if it is measured with others, its earlier figures are left out in all
rows. If the file is about other weights or data, all earlier figures are. A file that cannot be
read is renamed to ....damaged. Commands that end at the same time add one after the other, but not
in an object store, where the last one wins.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from ssl_jax.checkpoint import CheckpointError
from ssl_jax.checkpoint.manifest import Manifest
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.evals.registry import Evaluation
from ssl_jax.run import failures
from ssl_jax.run.probing import Prober

FOLDER = "evaluations"
_OWN = ""  # the row of the run itself
# Keys of `config.eval` that change figures of evaluations or of baselines.
_SHARED = (
    "train_split", "test_split", "classes", "center", "max_train_examples",
    "baseline_components", "baseline_fit_examples",
)  # fmt: skip
_HEADER = ("step", "data", "weights", "feature", "checkpoint")
_Figures = dict[str, float]


def fingerprint(workdir: epath.PathLike, step: int) -> str:
    """A text that says which arrays a checkpoint has; "" if that cannot be read."""
    try:
        return Manifest.read(epath.Path(workdir) / "checkpoints" / str(step)).fingerprint
    except CheckpointError:
        return ""


def settings(evaluation: Evaluation, prober: Prober) -> dict[str, Any]:
    """What the figures of an evaluation depend on besides the weights, as JSON can hold it."""
    section = prober.config.eval
    data = {key: section[key] for key in _SHARED} | {"test_examples": len(prober.test)}
    if evaluation.fits:
        with contextlib.suppress(UserError, OSError):  # that made the evaluation fail
            data["train_examples"] = len(prober.train)
    options = {**evaluation.options, "target": evaluation.target, "feature": evaluation.feature}
    return json.loads(json.dumps({"options": options, "data": data}, default=str))


def add(path: epath.Path, measured: Mapping[str, Any]) -> list[str]:
    """Adds what was measured to a file, which is created if missing.

    Args:
      path: the file.
      measured: the content of a file with these measurements alone.

    Returns:
      Lines for the user: what the file keeps of earlier, and what not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.one_at_a_time(path.parent):
        earlier: dict[str, Any] = {}
        if path.exists():
            try:
                earlier = _read(path)
            except UserError as error:
                failures.warn("reading the earlier evaluations", error)
                path.replace(path.with_name(f"{path.name}.damaged"))
        content, lines = merged(earlier, measured)
        storage.write_whole(path, json.dumps(content, indent=2) + "\n")
    return lines


def _read(path: epath.Path) -> dict[str, Any]:
    content = storage.read_json(path)
    parts = (content, content.get("baselines", {}), content.get("settings", {}))
    rows = parts[1].values() if isinstance(parts[1], dict) else ()
    if not all(isinstance(part, dict) for part in (*parts, *rows)):
        raise UserError(f"{path} cannot be read: its baselines or settings are no objects")
    return content


def merged(
    earlier: Mapping[str, Any], measured: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """(content of the file, lines for the user), see `add`."""
    lines = []
    same = measured["checkpoint"] and all(earlier.get(k) == measured[k] for k in _HEADER)
    if earlier and not same:
        earlier = {}
        lines.append(
            "left out: the earlier figures of the file, which does not say that they are of these "
            "weights and data"
        )
    old_settings, new_settings = dict(earlier.get("settings", {})), dict(measured["settings"])
    old_rows, new_rows = _rows(earlier), _rows(measured)
    again = {name for row in new_rows.values() for name in _names(row)}
    changed = {name for name in again if old_settings.get(name) != new_settings[name]}

    rows: dict[str, _Figures] = {}
    kept: dict[str, list[str]] = {}  # evaluation -> rows
    left_out: dict[str, list[str]] = {}
    for title in dict.fromkeys((*old_rows, *new_rows)):
        old, new = old_rows.get(title, {}), new_rows.get(title, {})
        replaced, row = _names(new), {}
        for key, value in old.items():
            name = _name(key)
            if name in changed:
                if name not in replaced:
                    left_out.setdefault(name, []).append(title)
            elif name not in replaced:
                row[key] = value
                kept.setdefault(name, []).append(title)
        if row or new:
            rows[title] = row | new
    content: dict[str, Any] = {key: measured[key] for key in _HEADER}
    content |= rows.pop(_OWN, {})
    if rows:
        content["baselines"] = rows
    not_computed = {
        name: why
        for name, why in earlier.get("not_computed", {}).items()
        if name not in new_settings
    } | measured.get("not_computed", {})
    not_computed = {name: why for name, why in not_computed.items() if name not in _names(content)}
    if not_computed:
        content["not_computed"] = not_computed
    with_figures = {name for row in (content, *rows.values()) for name in _names(row)}
    content["settings"] = {
        name: value
        for name, value in (old_settings | {name: new_settings[name] for name in again}).items()
        if name in with_figures
    }
    if kept:
        now = next(iter(new_settings.values()))["data"]
        said = [
            _kept(name, titles, again, old_settings.get(name, {}).get("data", {}), now)
            for name, titles in kept.items()
        ]
        lines.append(f"the file keeps from earlier: {', '.join(said)}")
    if left_out:
        said = [f"{name}{_of(titles)}" for name, titles in left_out.items()]
        lines.append(f"left out, because it was measured with other options: {', '.join(said)}")
    return content, lines


def _rows(content: Mapping[str, Any]) -> dict[str, _Figures]:
    """Row -> its figures; the run's own row is `_OWN`."""
    own = {key: value for key, value in content.items() if "/" in key}
    return {_OWN: own, **content.get("baselines", {})}


def _name(key: str) -> str:
    """The evaluation of a figure."""
    return key.partition("/")[0]


def computed(workdir: epath.Path, step: int) -> set[str]:
    """The evaluations of the checkpoint `step` in the files of a workdir; of damaged files none."""
    names: set[str] = set()
    for path in (workdir / FOLDER).glob(f"{step}_*.json"):
        with contextlib.suppress(UserError):
            names |= _names(_read(path))
    return names


def _names(figures: Mapping[str, Any]) -> set[str]:
    """The evaluations of figures; other keys have no slash."""
    return {_name(key) for key in figures if "/" in key}


def _kept(
    name: str, titles: list[str], again: set[str], data: Mapping[str, Any], now: Mapping[str, Any]
) -> str:
    """A kept evaluation, with the settings of data that are others than those of this time."""
    others = [f"{key}={value}" for key, value in data.items() if key in now and now[key] != value]
    rows = _of(titles) if name in again else ""
    return f"{name}{rows}" + (f" ({', '.join(others)})" if others else "")


def _of(titles: list[str]) -> str:
    """ " of" these rows, such as " of raw pixels and untrained encoder"."""
    names = [title or "this run" for title in dict.fromkeys(titles)]
    return f" of {' and '.join(names)}"
