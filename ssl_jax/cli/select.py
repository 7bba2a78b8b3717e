"""Ranks checkpoints without labels: ssl_jax select --workdir=runs/x --by=lidar

The candidates are the checkpoints of a run (set checkpoint.keep_latest to keep many), or the last
checkpoints of the runs in a folder, such as the cells of a sweep. They are ranked by a measure that
needs no label: lidar, rankme, alpha_req (nearest to 1) or clid. Several, as in
--by=lidar,rankme, are all measured, and the first one ranks. Where the data have labels, --probe
is measured too, and its rank correlation (Spearman) with each measure is printed: how far the
measure can be trusted. Writes workdir/selection.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax import data, evals, parallel
from ssl_jax.checkpoint import steps
from ssl_jax.config import apply
from ssl_jax.core import storage
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.experiment.build import Experiment, use_compilation_cache
from ssl_jax.pretrained import trained_run
from ssl_jax.run.probing import Prober


class Measure(NamedTuple):
    """A measure that needs no label.

    Attributes:
      evaluation: its evaluation.
      metric: of that evaluation.
      quality: value -> a number of which more is better.
    """

    evaluation: str
    metric: str
    quality: Callable[[float], float] = float


MEASURES: Mapping[str, Measure] = {
    "lidar": Measure("lidar", "rank"),
    "rankme": Measure("collapse", "rankme_h"),
    "alpha_req": Measure("alpha_req", "alpha", lambda value: -abs(value - 1)),
    "clid": Measure("clid", "clid"),
}


class Candidate(NamedTuple):
    """A checkpoint and its values, by measure; `probe` is None without labels."""

    workdir: str
    step: int
    values: dict[str, float]
    probe: float | None


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "A run, or a folder of runs.")
    flags.DEFINE_list("by", ["lidar"], f"Measures, of {', '.join(MEASURES)}; the first one ranks.")
    flags.DEFINE_string("probe", "knn/top1", "Metric of labels to compare with; empty: none.")
    flags.DEFINE_string("feature", "h", "Output of the method to measure.")
    flags.DEFINE_string("data", None, "Data set to measure on; default: that of the run.")
    flags.DEFINE_multi_string("set", [], "Option of an evaluation, e.g. lidar.images=500.")


def main() -> int:
    options = flags.FLAGS
    if not options.workdir:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    for name in options.by or [""]:
        if name not in MEASURES:
            raise UserError(
                f"--by={name} is no measure; use {', '.join(MEASURES)}.{nearest(name, MEASURES)}"
            )
    parallel.initialize()
    runs = runs_in(options.workdir)
    candidates = [candidate for run, saved in runs for candidate in _measured(run, saved, options)]
    ordered = ranked(candidates, options.by[0])
    correlations = {name: correlation(ordered, name) for name in options.by}
    if jax.process_index() == 0:
        _show(ordered, options, correlations)
        _write(ordered, options, correlations)
    return 0


def runs_in(workdir: str) -> list[tuple[str, list[int]]]:
    """The runs to compare with the steps of theirs: all of one run, the last of several.

    Raises:
      UserError: there are fewer than two checkpoints.
    """
    own = steps.committed(epath.Path(workdir) / "checkpoints")
    if len(own) > 1:
        return [(workdir, own)]
    if own:
        raise UserError(
            f"{workdir} has one checkpoint, of step {own[0]}; nothing to select. "
            "checkpoint.keep_latest and checkpoint.every_steps keep more"
        )
    folder = epath.Path(workdir)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    saved = [(str(folder / name), steps.committed(folder / name / "checkpoints")) for name in names]
    runs = [(run, numbers[-1:]) for run, numbers in saved if numbers]
    if len(runs) < 2:
        raise UserError(
            f"{workdir} has {len(runs) or 'no'} runs with checkpoints; select needs two"
        )
    return runs


def _measured(workdir: str, saved: list[int], options: Any) -> Iterator[Candidate]:
    """The candidates of one run."""
    config = trained_run.read_config(workdir)
    settings = [text.partition("=") for text in options["set"].value]
    config = apply(config, {f"eval.{key}": value for key, _, value in settings})
    use_compilation_cache(config.compilation_cache)
    experiment = Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())
    prober = Prober(config, experiment.mesh, options.data, workdir=workdir)
    chosen = dict.fromkeys(MEASURES[name].evaluation for name in options.by)
    probe = options.probe if options.probe and prober.labelled else None
    if probe is not None:
        chosen[probe.partition("/")[0]] = None
    evaluations = evals.load_all(tuple(chosen), config.eval)
    for evaluation in evaluations:
        evaluation.check_applies(experiment.method, experiment.spec)
    for step in saved:
        run = trained_run.load_experiment(workdir, experiment, step)
        with jax.set_mesh(experiment.mesh):
            values = prober.evaluate(experiment.model(run.weights), evaluations, options.feature)
        if probe is not None and probe not in values:
            raise UserError(f"--probe={probe} is not measured: {', '.join(sorted(values))}."
                            f"{nearest(probe, values)}")  # fmt: skip
        by = {
            name: values[f"{MEASURES[name].evaluation}/{MEASURES[name].metric}"]
            for name in options.by
        }
        yield Candidate(workdir, step, by, None if probe is None else values[probe])


def ranked(candidates: list[Candidate], measure: str) -> list[Candidate]:
    """The candidates, best first; of equal ones the later one first."""
    return sorted(
        candidates,
        key=lambda one: (MEASURES[measure].quality(one.values[measure]), one.step),
        reverse=True,
    )


def correlation(candidates: list[Candidate], measure: str) -> float | None:
    """Spearman's correlation of a measure and the probe; None without a probe, or if constant."""
    if any(one.probe is None for one in candidates) or len(candidates) < 3:
        return None
    from scipy.stats import rankdata  # takes a second to import

    quality = [MEASURES[measure].quality(one.values[measure]) for one in candidates]
    ranks = [rankdata(values) for values in (quality, [one.probe for one in candidates])]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _show(ordered: list[Candidate], options: Any, correlations: dict[str, float | None]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    one_run = len({one.workdir for one in ordered}) == 1
    table.add_column("step" if one_run else "run")
    for name in options.by:
        table.add_column(name, justify="right")
    probed = ordered[0].probe is not None
    if probed:
        table.add_column(options.probe, justify="right")
    for one in ordered:
        label = f"{one.step:,}" if one_run else f"{epath.Path(one.workdir).name}@{one.step}"
        cells = [f"{one.values[name]:.4g}" for name in options.by]
        table.add_row(Text(label), *cells, *([f"{one.probe:.4f}"] if probed else []))
    make_console().print(table)
    for name, value in correlations.items():
        if value is not None:
            print(f"rank correlation of {name} and {options.probe}: {value:+.2f} "
                  f"over {len(ordered)} checkpoints")  # fmt: skip
    print(f"best by {options.by[0]}: {ordered[0].workdir}@{ordered[0].step}")


def _write(ordered: list[Candidate], options: Any, correlations: dict[str, float | None]) -> None:
    record = {
        "by": options.by,
        "feature": options.feature,
        "probe": options.probe,
        "rank_correlation": correlations,
        "candidates": [one._asdict() for one in ordered],
    }
    path = epath.Path(options.workdir) / "selection.json"
    storage.write_whole(path, json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
