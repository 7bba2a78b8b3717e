"""Tasks of labelled texts, one object each: labels, predictions and scores."""

from ssl_jax.tasks.base import Task
from ssl_jax.tasks.registry import TASKS

__all__ = ["TASKS", "Task"]
