"""Tasks that texts can be labelled for, one object each: what is learned, and how it is scored."""

from ssl_jax.tasks.base import Task
from ssl_jax.tasks.registry import TASKS

__all__ = ["TASKS", "Task"]
