"""What tasks say of themselves, against the data, the methods and the evaluations."""

import inspect

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import named_methods
from ssl_jax.core.errors import UserError
from ssl_jax.evals import task as task_evaluation
from ssl_jax.tasks import TASKS
from ssl_jax.tasks.classify import CLASSIFY
from ssl_jax.tasks.labels import NO_CLASS
from ssl_jax.tasks.regress import REGRESS
from ssl_jax.tasks.span import SPAN
from ssl_jax.tasks.tags import TAGS


def test_tasks_name_methods_and_metrics_that_there_are():
    assert set(named_methods.names()) >= {task.method for task in TASKS.values()}
    for task in TASKS.values():
        assert set(task.scores) <= set(task_evaluation.METRICS)
    of_kinds = {name for kind in data.kinds().values() for name in kind.tasks}
    assert of_kinds == set(TASKS)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_says_which_arrays_it_adds(task):
    shapes = task.target_shapes(24)
    assert set(task.padding) <= set(shapes)
    assert all(isinstance(dtype, type) for _, dtype in shapes.values())
    assert "null_threshold" in inspect.signature(task.score).parameters


def test_labels_are_read_as_files_have_them():
    read = CLASSIFY.parse_label
    assert [read(x, "a") for x in (" yes ", "", -1, 2, 2.0, True, float("nan"))] == [
        "yes", None, NO_CLASS, "2", "2", "true", None,
    ]  # fmt: skip
    assert [REGRESS.parse_label(x, "a") for x in ("1.5", " ", float("nan"), 2)] == [
        1.5, None, None, 2.0,
    ]  # fmt: skip
    assert TAGS.parse_label(["O", "B-X", -1], "a") == ["O", "B-X", NO_CLASS]
    for task, label, message in (
        (CLASSIFY, 1.5, "a is 1.5, not a class; set data.options.task=regress"),
        (REGRESS, "x", "a is 'x', not a number; task=regress needs numbers"),
        (REGRESS, float("inf"), "a is inf, not a number"),
        (TAGS, "O", "a is 'O', not a list of tags"),
    ):
        with pytest.raises(UserError, match=message):
            task.parse_label(label, "a")


def test_scores_depend_on_the_classes_of_tags():
    assert TAGS.scores_of(("O", "B-X", "I-X"))[0] == "entity_f1"
    assert TAGS.scores_of(("NOUN", "VERB")) == ("accuracy", "macro_f1")
    assert SPAN.scores_of(None) == ("exact_match", "f1")


def test_tasks_without_baselines_have_none():
    assert (
        REGRESS.baselines(None, None, ("tf_idf",)) == TAGS.baselines(None, None, ("tf_idf",)) == {}
    )
    assert REGRESS.padding["target"] is np.nan and CLASSIFY.labels_examples
