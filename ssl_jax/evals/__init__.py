"""Evaluations of frozen features and of whole models, one file each, selected by name.

An evaluation of features is a module of this package with

    NEEDS = ("label",)                    # arrays that it takes beside the features
    METRICS = {"top1": Metric("kNN", "accuracy of a kNN classifier"), ...}
    def evaluate(train, test, *, num_classes, seed, devices, **options) -> {"top1": float, ...}

`train` and `test` map names to arrays with one row an example: `h` float [n d], the features, and
what NEEDS names, such as `label` int [n] or `factors` float [n f]. The function has those arguments
that it uses: `train`, without which nothing is fitted and that split is not encoded, `test`,
`num_classes`, `factor_names`, `seed` and `devices`. Its other keyword arguments, which are
`Annotated`, are the options that the config's section of the same name may hold: `eval.knn.k`. Two
more keys are understood there: `target`, the array that is given as `label`, and `feature`, the
output of the method to evaluate. A module that is about one output names it by FEATURE. Rows may be
frames: features [n t d] and targets [n t] are flattened, those with a negative target left out.

METRICS declares what `evaluate` returns, see `ssl_jax.evals.metric`; a fraction is in [0, 1].
Nothing that an evaluation fits or chooses may see `test`.

An evaluation of the whole model has, instead of `evaluate`,

    def evaluate_model(model, prober, **options) -> {"accuracy": float, ...}

`model` is a `ssl_jax.evals.model.Model`: the method, its weights and its outputs. `prober` is a
`ssl_jax.run.probing.Prober`: the splits as sources, and passes over them. With an argument
`feature`, the name of an output, it is run on every output that is evaluated, and on raw inputs,
which have no method. Optional in both kinds:

    applies(method, spec) -> bool        whether it is for such a method and data
    AUTOMATIC = True                     it is run wherever it applies, without being named
    baselines(model, prober, source)     -> {name: metrics}: what the model is compared with;
                                         `source` is its training data, or None
    check(known, **options)              raises UserError if it cannot be computed, or returns a
                                         note; called before a run begins, with what is known of
                                         the data by then, see `ssl_jax.evals.known`
    measures(known, **options) -> names  the metrics that it will measure, if they are not all of
                                         METRICS; needed where METRICS has families
    FITS = False                         of evaluate_model: it does not look at the train split
    LOGGED_AS = "train/"                 training logs the same metrics, with that in front
"""

from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.on_features import evaluate
from ssl_jax.evals.registry import (
    Evaluation,
    automatic,
    describe,
    describe_logged,
    load,
    load_all,
    logged_as,
    names,
)

__all__ = [
    "Evaluation",
    "Metric",
    "Model",
    "automatic",
    "describe",
    "describe_logged",
    "evaluate",
    "load",
    "load_all",
    "logged_as",
    "names",
]
