"""Scores a method on the task of its labelled texts: classes, numbers, tags or answers.

Nothing is fitted, so the train split is not looked at. The data set says which scores there are,
see `ssl_jax.tasks`. It is run whenever the run's texts are labelled for a task.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Batch, DataSpec, Method
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.tasks import TASKS

NEEDS = ()
AUTOMATIC = True
FITS = False
OF_RUN_CLASSES = True
METRICS = {
    "accuracy": Metric("accuracy"),
    "f1": Metric("F1"),
    "macro_f1": Metric("macro F1"),
    "matthews": Metric("Matthews", "Matthews' correlation"),
    "pearson": Metric("Pearson", "Pearson's correlation"),
    "spearman": Metric("Spearman", "Spearman's correlation of ranks"),
    "exact_match": Metric("exact match", "answers that match exactly"),
    "entity_f1": Metric("entity F1", "F1 of whole entities"),
    "entity_precision": Metric("precision", "precision of whole entities"),
    "entity_recall": Metric("recall", "recall of whole entities"),
    "rmse": Metric("RMSE", "root mean square error", "", "lower"),
    "has_answer_f1": Metric("F1 if answered", "F1 where there is an answer", shown=False),
    "no_answer_accuracy": Metric("no answer", "questions without an answer found", shown=False),
    "null_threshold": Metric("threshold", "threshold of no answer", "", None, shown=False),
}


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the texts are labelled for a task."""
    del method
    return spec.task is not None


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    null_threshold: Annotated[
        float | None,
        """Of questions that may have no answer: by how much the score of no answer must exceed that
        of the best one. None: what is best for F1 on the very split that is scored, as papers do on
        dev.""",
    ] = 0.0,
) -> dict[str, float]:
    """The scores of the test split.

    Raises:
      UserError: the method does not make what is scored, or the data set is of another task, or has
        no labels.
    """
    if prober.test.spec.task != prober.task:
        raise UserError(
            f"{prober.dataset} is of the task {prober.test.spec.task}, and this run has learned "
            f"{prober.task}"
        )
    task = TASKS[prober.task]
    needed = task.predictions

    def predictions(batch: Batch) -> dict[str, jax.Array]:
        outputs = model.features(batch)
        if not set(needed) <= set(outputs):
            raise UserError(
                f"the task {task.name!r} is scored by {' and '.join(needed)}, and this method "
                f"makes {', '.join(sorted(outputs))}"
            )
        return {name: outputs[name] for name in needed}

    rows = prober.features(predictions, prober.test)
    return task.score(prober.test, rows, null_threshold=null_threshold)


def baselines(model: Model, prober: Any, source: Any) -> dict[str, dict[str, float]]:
    """Classifiers that need no pretraining, fitted to the training data of the model."""
    del model
    if source is None or not prober.config.eval.baselines:
        return {}
    return TASKS[prober.task].baselines(source, prober.test, seed=prober.config.seed)
