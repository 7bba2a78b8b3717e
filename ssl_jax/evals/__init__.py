"""Evaluation of frozen features. One file an evaluation, picked by its name.

An evaluation is a module of this package with a function

    evaluate(train, test, *, num_classes, seed, devices, **options) -> {"metric": float}

and a constant NEEDS_LABELS. `train` and `test` map names to arrays with one row an example: `h`
(the features) and `label`. The options are what the config's section of the same name may hold,
e.g. `eval.knn.k`. Accuracies are fractions in [0, 1]. Nothing an evaluation fits or chooses may
see `test`.

Two more constants are for what takes something else. FEATURE names the one output of a method that
the evaluation is about, and `h` is then that output; the others take whichever features they are
asked to. An evaluation that fits nothing sets NEEDS_TRAIN to False and takes no `train`, so that
nobody has to encode that split for it.
"""

from ssl_jax.evals.registry import evaluate, feature_of, load, names, needs_train

__all__ = ["evaluate", "feature_of", "load", "names", "needs_train"]
