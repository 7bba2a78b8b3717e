"""The tasks by name."""

from __future__ import annotations

from ssl_jax.tasks.base import Task
from ssl_jax.tasks.classify import CLASSIFY
from ssl_jax.tasks.regress import REGRESS
from ssl_jax.tasks.span import SPAN
from ssl_jax.tasks.tags import TAGS

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, REGRESS, TAGS, SPAN)}
