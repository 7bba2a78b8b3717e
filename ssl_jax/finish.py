"""The end of a run: final probes beside their baselines, results.json, report.html."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console

from ssl_jax import data, evals, metrics, preflight, report
from ssl_jax.experiment import Experiment
from ssl_jax.probing import Prober, raw_pixels
from ssl_jax.train_state import TrainState

_RESULTS = "results.json"
_RAW, _UNTRAINED = "raw pixels", "untrained encoder"
_MAP_POINTS = 1500  # of the embedding map and the neighbour gallery
_SHOWN_VIEWS = 8  # training images whose views the report shows


def is_finished(workdir: epath.Path, step: int) -> bool:
    """Whether the final results of `step` are written."""
    path = epath.Path(workdir) / _RESULTS
    return path.exists() and json.loads(path.read_text()).get("step", -1) >= step


def finish(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    source: data.Source,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
) -> None:
    """Probes the final state, prints the table, writes results.json and report.html.

    Args:
      experiment: what ran.
      prober: the probes' splits.
      state: the final state.
      source: the training data, for examples of the views.
      workdir: where to write.
      lines: the preflight's, for the report.
    """
    primary = jax.process_index() == 0
    apply = experiment.features_fn()
    results: dict[str, dict[str, float]] = {}
    if prober.labelled:
        chosen = tuple(experiment.config.eval.final_names)
        for name, encode in _representations(experiment, apply, state):
            # Pixels make no logits; a baseline that nothing is left for has no row.
            names = [one for one in chosen if name != _RAW or evals.feature_of(one) == "h"]
            if names:
                results[name] = prober.evaluate(encode, names)
    gallery = _gallery(prober, lambda batch: apply(state.params, state.buffers, batch))
    shown = _example_views(experiment, source)
    if not primary:
        return
    if results:
        Console().print(report.summary_table(results))
    if experiment.config.log.report:
        inputs = _inputs(experiment, gallery, shown, workdir, lines, results)
        print(f"report: {report.write(workdir, inputs)}", flush=True)
    record = {"step": int(state.step), "results": results, "environment": environment()}
    (epath.Path(workdir) / _RESULTS).write_text(json.dumps(record, indent=2) + "\n")


def _representations(experiment: Experiment, apply, state: TrainState):
    """(name, encode) of everything to probe, the trained encoder last."""
    if experiment.config.eval.baselines:
        yield _RAW, raw_pixels
        fresh = experiment.init_state()
        yield _UNTRAINED, lambda batch: apply(fresh.params, fresh.buffers, batch)
    yield experiment.method.title, lambda batch: apply(state.params, state.buffers, batch)


def _example_views(
    experiment: Experiment, source: data.Source
) -> tuple[np.ndarray, np.ndarray] | None:
    """Training images and the views made of them: [m h w c] and [m v h w c]."""
    batch = source.batch(np.arange(min(_SHOWN_VIEWS, len(source))))
    keys = jax.random.split(jax.random.key(experiment.config.seed), len(batch["image"]))
    views = jax.jit(experiment.method.example_views)(keys, batch)
    if views is None:
        return None
    image = batch["image"]
    original = image if image.ndim == 4 else image[:, 0]
    return original, np.asarray(views, np.float32)


@dataclasses.dataclass(frozen=True)
class _Gallery:
    """Images and their features, for the map and the neighbours."""

    pixels: np.ndarray  # uint8 (n, h, w, c)
    h: np.ndarray  # (n, d)
    labels: np.ndarray | None  # (n,)
    class_names: tuple[str, ...]
    split: str


def _gallery(prober: Prober, encode: Any) -> _Gallery:
    """Of the held-out split; of the training split where there are no labels to hold out for."""
    section = prober.config.eval
    source = prober.test if prober.labelled else prober.train
    split = section.test_split if prober.labelled else section.train_split
    chosen = np.arange(len(source))
    if len(source) > _MAP_POINTS:
        rng = np.random.default_rng(prober.config.seed)
        chosen = np.sort(rng.choice(len(source), _MAP_POINTS, replace=False))
    features = prober.features(encode, source, chosen)
    return _Gallery(
        pixels=source.batch(features["index"])["image"],
        h=features["h"],
        labels=features["label"] if prober.labelled else None,
        class_names=source.class_names or (),
        split=f"{len(chosen)} images of {prober.dataset}[{split}]",
    )


def _inputs(
    experiment: Experiment,
    gallery: _Gallery,
    shown: tuple[np.ndarray, np.ndarray] | None,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
    results: dict[str, dict[str, float]],
) -> report.ReportInputs:
    config = experiment.config
    return report.ReportInputs(
        config=config.to_dict(),
        method=experiment.method.title,
        dataset=config.data.name,
        rows=metrics.read_metrics(workdir),
        results=results,
        preflight=preflight.text(lines),
        pixels=gallery.pixels,
        embedding=gallery.h,
        labels=gallery.labels,
        class_names=gallery.class_names,
        split=gallery.split,
        originals=shown[0] if shown else None,
        views=shown[1] if shown else None,
        environment=environment(),
    )


def environment() -> dict[str, str]:
    """Versions, devices, command and commit, for results and reports."""
    versions = {name: metadata.version(name) for name in ("jax", "flax", "optax")}
    devices = jax.devices()
    out = {
        "ssl_jax": metadata.version("ssl_jax"),
        **versions,
        "python": platform.python_version(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "command": " ".join(["python -m ssl_jax.train", *sys.argv[1:]]),
    }
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if commit.returncode == 0:
        out["commit"] = commit.stdout.strip()
    return out
