"""Groups the metrics of a run into charts.

A table defines the charts and the names of their metrics. Other metrics get one chart each. The
METRICS of evaluations define the units of metrics and which are fractions, see `ssl_jax.evals`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax import evals
from ssl_jax.evals.metric import SPREAD

MAX_OTHERS = 12  # maximum number of charts of metrics that are not in the table
ONLINE = "train/online/accuracy"  # shown beside the evaluations
TRAIN, MONITOR, EVAL = "train/", "collapse/", "eval/"
EvalSection = Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart.

    Attributes:
      title: with the unit.
      names: names of its metrics without the prefix "train/" or "collapse/". Metrics with a suffix,
        such as "lr/encoder" for "lr" and "rankme_h" for "rankme", are lines of the chart too.
      part: the separator before the suffix.
      percent: whether the values are fractions, shown in %.
      from_zero: whether the axis starts at 0.
      typical: whether the median is shown instead of the last value.
      log: whether the axis is logarithmic.
      ranked: what a line is, e.g. "latent", if there may be many, numbered by the end of their
        names: those with the largest last values have a colour and stand in the key, and the others
        are grey. "" for a few lines with names.
    """

    title: str
    names: tuple[str, ...]
    part: str = "/"
    percent: bool = False
    from_zero: bool = False
    typical: bool = False
    log: bool = False
    ranked: str = ""

    def shows(self, name: str) -> bool:
        """Whether the metric is one of its lines."""
        return any(name == own or name.startswith(own + self.part) for own in self.names)


def _speed(title: str, name: str, *, percent: bool = False) -> Panel:
    return Panel(title, (name,), percent=percent, from_zero=True, typical=True)


TRAINING = (
    Panel("Loss", ("loss",)),
    Panel("Contrastive accuracy", ("contrastive_accuracy",)),
    Panel("Accuracy by step of prediction", ("accuracy_step",), "_", percent=True, ranked="step"),
    Panel("Loss by step of prediction (nats)", ("loss_step",), "_", ranked="step"),
    Panel("Contrastive entropy (nats)", ("entropy",)),
    Panel("Accuracy", ("accuracy",)),
    Panel("Perplexity", ("perplexity",), log=True),
    Panel("Next sentence told from a random one", ("next_accuracy",)),
    Panel("Prototypes used by the targets of a batch", ("prototypes_used",), from_zero=True),
    Panel("Entropy of the targets (nats)", ("target_entropy",), from_zero=True),
    Panel("Variance of a patch's target over images", ("patch_target_variance",), from_zero=True),
    Panel("ELBO (nats)", ("elbo",)),
    Panel("KL (nats)", ("kl",), from_zero=True),
    Panel("Active latents in a batch", ("active_latents",), from_zero=True),
    Panel("KL of each latent (nats)", ("latent_kl",), from_zero=True, ranked="latent"),
    Panel("Learning rate", ("lr", "learning_rate")),
    Panel("Weight decay", ("weight_decay",)),
    _speed("Tokens a second", "tokens_per_s"),
    _speed("Share of padding", "padding_share", percent=True),
    _speed("Images a second", "images_per_s"),
    _speed("Windows a second", "windows_per_s"),
    _speed("Share of time waiting for data", "data_wait", percent=True),
    _speed("Model FLOP utilisation", "mfu", percent=True),
)
COLLAPSE = (
    Panel("Effective rank (RankMe)", ("rankme",), "_", from_zero=True),
    Panel("Spread of normalised embeddings", ("std",), "_", from_zero=True),
    Panel("Alignment", ("alignment",), "_", from_zero=True),
    Panel("Uniformity", ("uniformity",), "_"),
)
_ACRONYMS = ("elbo", "kl", "l2", "psnr")
# Not drawn, because another chart shows the same. RankMe is the effective rank plus a constant.
_REDUNDANT = (Panel("", ("steps_per_s", "step", "epoch")), Panel("", ("effective_rank",), "_"))


class Chosen(NamedTuple):
    """A panel that a run has values for.

    Attributes:
      id: unique on the page.
      panel: how it is drawn.
      keys: keys of the rows, one line per key.
    """

    id: str
    panel: Panel
    keys: list[str]


def training_panels(known: Sequence[str], section: EvalSection = None) -> list[Chosen]:
    """The panels of the training metrics.

    An evaluation that scores what training logs too, such as the accuracy on hidden tokens, is a
    line beside it.

    Args:
      known: keys of the rows, sorted.
      section: the eval section of the config, where it names evaluations of its own.
    """
    names: dict[str, str] = {}
    for key in known:
        if not key.startswith(EVAL):
            names[key] = key
        elif (same := evals.logged_as(key, section)) in known and _is_shown(key, section):
            names[key] = same
    names = {
        key: name.removeprefix(TRAIN)
        for key, name in names.items()
        if not name.startswith(MONITOR) and key != ONLINE
    }
    return _choose(names, TRAINING, TRAIN)


def monitor_panels(known: Sequence[str], section: EvalSection = None) -> list[Chosen]:
    """The panels of the collapse monitor, whose measures an evaluation of features may take too.

    Args:
      known, section: as for `training_panels`.
    """
    logged = {key: evals.logged_as(key, section) or key for key in known}
    names = {
        key: name.removeprefix(MONITOR) for key, name in logged.items() if name.startswith(MONITOR)
    }
    return _choose(names, COLLAPSE, MONITOR)


def undeclared_panels(known: Sequence[str], section: EvalSection = None) -> list[Chosen]:
    """A panel for each metric of evaluations that none declares.

    Args:
      known, section: as for `training_panels`.
    """
    names = {
        key: key.removeprefix(EVAL)
        for key in known
        if key.startswith(EVAL)
        and evals.describe(key, section) is None
        and key.removesuffix(SPREAD) not in set(known) - {key}
    }
    return _choose(names, (), EVAL)


def _is_shown(key: str, section: EvalSection) -> bool:
    metric = evals.describe(key, section)
    return metric is not None and metric.shown


def _choose(names: Mapping[str, str], table: Sequence[Panel], prefix: str) -> list[Chosen]:
    """The panels of the table that have values, then a panel for each other metric.

    Args:
      names: key -> metric without prefix.
      table: the panels.
      prefix: under which training logs these metrics.
    """
    unit_of = {name: _unit(prefix + name) for name in names.values()}
    chosen, taken = [], set()
    chapter = prefix.removesuffix("/")
    for number, panel in enumerate(table):
        keys = [key for key, name in names.items() if panel.shows(name)]
        if keys:
            taken.update(keys)
            percent = panel.percent or all(unit_of[names[key]] == "%" for key in keys)
            panel = dataclasses.replace(panel, percent=percent)
            chosen.append(Chosen(f"{chapter}{number}", panel, keys))
    others: dict[str, list[str]] = {}
    for key, name in names.items():
        if key not in taken and not any(panel.shows(name) for panel in _REDUNDANT):
            others.setdefault(name, []).append(key)
    for number, (name, keys) in enumerate(itertools.islice(others.items(), MAX_OTHERS)):
        unit = unit_of[name]
        words = _in_words(name)
        title = words if unit in ("", "%") else f"{words}, {unit}"
        own = Panel(title, (name,), percent=unit == "%")
        chosen.append(Chosen(f"{chapter}-other{number}", own, keys))
    return chosen


def _in_words(name: str) -> str:
    """The name of a metric as a title: "grad_norm" -> "Grad norm", "psnr" -> "PSNR"."""
    words = re.sub("[_/]", " ", name).split()
    words = [word.upper() if word in _ACRONYMS else word for word in words]
    return words[0][:1].upper() + " ".join(words)[1:]


def _unit(key: str) -> str:
    metric = evals.describe_logged(key)
    return "" if metric is None else metric.unit
