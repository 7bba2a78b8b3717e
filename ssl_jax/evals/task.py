"""Scores a method on the task of its labelled texts: classes, numbers, tags or answers.

Nothing is fitted, so the train split is not used. The data set defines the scores, see
`ssl_jax.tasks`. The evaluation runs whenever the texts of the run are labelled for a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Batch, DataSpec, Method
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.tasks import TASKS
from ssl_jax.tasks.base import Task, check_labelled

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
    "entity_f1": Metric(
        "entity F1", "F1 of whole entities", sentence="F1 of {model} on whole entities"
    ),
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
        """For questions that may have no answer: the difference by which the score of no answer
        must exceed that of the best answer. None: the value with the best F1 on the split that is
        scored, as papers do on dev.""",
    ] = 0.0,
) -> dict[str, float]:
    """The scores of the test split.

    Raises:
      UserError: the method does not have the outputs that are scored, or the data set has another
        task or no labels.
    """
    _check_task(prober.test, prober.task)
    task = TASKS[prober.task]

    def predictions(batch: Batch) -> dict[str, jax.Array]:
        outputs = model.features(batch)
        _check_predictions(task, outputs)
        return {name: outputs[name] for name in task.predictions}

    rows = prober.features(predictions, prober.test)
    return task.score(prober.test, rows, null_threshold=null_threshold)


def check(known: Known, **options: Any) -> None:
    """Raises UserError if the split has another task or no labels, or nothing can be scored."""
    del options
    _check_task(known.test, known.task)
    task = TASKS[known.task]
    _check_predictions(task, known.outputs)
    check_labelled(known.test, bool(task.has_label(known.test.encoded).any()))


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics: the scores of the data set, and details of some of them."""
    del options
    details = (name for name, metric in METRICS.items() if not metric.shown)
    return (*known.test.metrics, *details)


def _check_task(source: Any, task: str | None) -> None:
    if source.spec.task != task:
        raise UserError(
            f"{source.name} has the task {source.spec.task}, but this run has learned {task}"
        )


def _check_predictions(task: Task, outputs: Mapping[str, Any]) -> None:
    if not set(task.predictions) <= set(outputs):
        raise UserError(
            f"the task {task.name!r} needs the outputs {' and '.join(task.predictions)}, but this "
            f"method has {', '.join(sorted(outputs))}"
        )


def baselines(model: Model, prober: Any, source: Any) -> dict[str, dict[str, float]]:
    """Classifiers that need no pretraining, fitted to the training data of the model."""
    del model
    if source is None:
        return {}
    section = prober.config.eval
    return TASKS[prober.task].baselines(
        source, prober.test, section.baselines, seed=prober.config.seed
    )
