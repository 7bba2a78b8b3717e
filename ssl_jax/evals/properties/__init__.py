"""Desiderata of a representation, see `ssl_jax.evals.properties.evaluation`."""

from ssl_jax.evals.properties.evaluation import (
    NEEDS,
    check,
    evaluate_model,
    measures,
    outputs,
)
from ssl_jax.evals.properties.metrics import METRICS

__all__ = ["METRICS", "NEEDS", "check", "evaluate_model", "measures", "outputs"]
