"""The tasks of GLUE (Wang et al. 2019): what TFDS calls their parts, and how they are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
      fields: the feature of the text, or those of both.
      metrics: names of its scores, the first the one that counts most.
      sizes: examples of each split.
      class_names: the classes by number; None of a regression.
      prepared: which of TFDS's sets it is.
      splits: what a split is called there, where its name is another.
      aliases: further names of splits.
    """

    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    sizes: Mapping[str, int]
    class_names: tuple[str, ...] | None
    prepared: str
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        return "regress" if self.class_names is None else "classify"


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


_MNLI: dict[str, Any] = {
    "fields": ("premise", "hypothesis"),
    "metrics": ("accuracy",),
    "class_names": ("entailment", "neutral", "contradiction"),
    "prepared": "mnli",
}
# Fields, classes and sizes as TFDS has them, metrics as the benchmark's paper, table 1.
TASKS = {
    "cola": GlueTask(
        ("sentence",), ("matthews",), _sizes(8_551, 1_043, 1_063),
        ("unacceptable", "acceptable"), "cola",
    ),
    "sst2": GlueTask(
        ("sentence",), ("accuracy",), _sizes(67_349, 872, 1_821), ("negative", "positive"), "sst2"
    ),
    "mrpc": GlueTask(
        ("sentence1", "sentence2"), ("f1", "accuracy"), _sizes(3_668, 408, 1_725),
        ("not_equivalent", "equivalent"), "mrpc",
    ),
    "qqp": GlueTask(
        ("question1", "question2"), ("f1", "accuracy"), _sizes(363_846, 40_430, 390_965),
        ("not_duplicate", "duplicate"), "qqp",
    ),
    "stsb": GlueTask(
        ("sentence1", "sentence2"), ("pearson", "spearman"), _sizes(5_749, 1_500, 1_379), None,
        "stsb",
    ),
    "mnli": GlueTask(
        **_MNLI,
        sizes={
            "train": 392_702, "validation_matched": 9_815, "validation_mismatched": 9_832,
            "test_matched": 9_796, "test_mismatched": 9_847,
        },
        aliases={"validation": "validation_matched", "test": "test_matched"},
    ),
    "mnli_matched": GlueTask(
        **_MNLI, sizes=_sizes(392_702, 9_815, 9_796),
        splits={"validation": "validation_matched", "test": "test_matched"},
    ),
    "mnli_mismatched": GlueTask(
        **_MNLI, sizes=_sizes(392_702, 9_832, 9_847),
        splits={"validation": "validation_mismatched", "test": "test_mismatched"},
    ),
    "qnli": GlueTask(
        ("question", "sentence"), ("accuracy",), _sizes(104_743, 5_463, 5_463),
        ("entailment", "not_entailment"), "qnli",
    ),
    "rte": GlueTask(
        ("sentence1", "sentence2"), ("accuracy",), _sizes(2_490, 277, 3_000),
        ("entailment", "not_entailment"), "rte",
    ),
    "wnli": GlueTask(
        ("sentence1", "sentence2"), ("accuracy",), _sizes(635, 71, 146),
        ("not_entailment", "entailment"), "wnli",
    ),
}  # fmt: skip


def task(name: str) -> GlueTask:
    """The task of that name.

    Raises:
      UserError: GLUE has none.
    """
    if name not in TASKS:
        raise UserError(f"glue:{name} is none of {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]
