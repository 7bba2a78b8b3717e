"""The flags of commands that read one checkpoint of a run: which one, and which of its weights."""

from __future__ import annotations

from absl import flags

from ssl_jax.experiment import evaluated


def define_flags() -> None:
    flags.DEFINE_integer(
        "step", None, "The checkpoint's step; default: the latest, or the best if the run took it."
    )
    flags.DEFINE_enum(
        "weights", None, evaluated.CHOICES, "Which weights; default: the run's eval.weights."
    )
