"""Evaluations of frozen features and of whole models, one file each, selected by name.

An evaluation of features is a module of this package with

    NEEDS = ("label",)                    # arrays that it takes besides the features
    METRICS = {"top1": Metric("kNN", "accuracy of a kNN classifier"), ...}
    def evaluate(train, test, *, num_classes, seed, devices, **options) -> {"top1": float, ...}

`train` and `test` map names to arrays with one row per example: `h` float [n d], the features, and
the arrays in NEEDS, such as `label` int [n], `labels` int [n k] (1 has label k, 0 has not, -1 is
unknown) or `factors` float [n f]. The function declares the arguments that it uses, out of `train`,
`test`, `num_classes`, `factor_names`, `label_names`, `seed`, `devices`, `outcomes`, a dict to which
it adds what it predicts of each test example, and `rendered`, new examples of data that render them
(`ssl_jax.evals.shared_factor.Rendered`). Without `train` it fits nothing, and the train split is
not encoded. Its other keyword arguments are `Annotated`; they are the options of the config section
of the same name: `eval.knn.k`. Options that several functions pass on are fields of a dataclass
`Options` in the module instead, and `evaluate` takes one as `options`. The section has two more
keys: `target`, the array to pass as `label`, and `feature`, the output of the method to evaluate. A
module for one particular output names it in FEATURE. Rows may be frames: features [n t d] and
targets [n t] are flattened, and frames with a negative target are left out.

With SPLIT = True, `h` may be `ssl_jax.evals.split_rows.SplitRows`, of which each process of a run
has only the rows that it computed; all processes then have to do the same.

METRICS declares what `evaluate` returns, see `ssl_jax.evals.metric`; a fraction is in [0, 1].
An evaluation must not use `test` to fit or choose anything.

An evaluation of the whole model has, instead of `evaluate`,

    def evaluate_model(model, prober, **options) -> {"accuracy": float, ...}

`model` is a `ssl_jax.evals.model.Model`: the method, its weights and its outputs. `prober` is a
`ssl_jax.run.probing.Prober`: the splits as sources, and passes over them. With an argument
`feature`, the name of an output, it is run on every output that is evaluated, and on raw inputs,
which have no method. With TOKENS = True it takes all tokens [n p d] of one output, which FEATURE or
its option `feature` names. Optional in both kinds:

    applies(method, spec) -> bool        whether it applies to the method and the data
    AUTOMATIC = True                     it runs whenever it applies, without being named
    baselines(model, prober, source)     -> {name: metrics}: baselines to compare the model with;
                                         `source` is the model's training data, or None
    check(known, **options)              raises UserError if it cannot be computed, or returns a
                                         note; called before a run starts, with the facts about the
                                         data that are known then, see `ssl_jax.evals.known`
    measures(known, **options) -> names  the metrics that it will measure, if they are not all of
                                         METRICS; required if METRICS has families
    outputs(**options) -> names          further outputs of layers that its options name, which are
                                         checked before a run
    splits(**options) -> {option: split} further splits of the data that its options name
    FITS = False                         for evaluate_model: it does not use the train split
    LOGGED_AS = "train/"                 training logs the same metrics with this prefix
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
