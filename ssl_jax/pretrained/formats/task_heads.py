"""Converts heads of fine-tuned BERTs and RoBERTas to the names of the `transformers` library.

    task of the labels   class there
    classify, regress    ...ForSequenceClassification
    tags                 ...ForTokenClassification
    span                 ...ForQuestionAnswering

A classifier of texts has a dense layer with tanh on the first token, and a linear map on that. In
BERT the layer is the encoder's pooler, in RoBERTa a part of the head; here it may be either.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.core.errors import UserError

_CLASSES = {
    "classify": "SequenceClassification",
    "regress": "SequenceClassification",
    "tags": "TokenClassification",
    "span": "QuestionAnswering",
}
_PROBLEMS = {"classify": "single_label_classification", "regress": "regression"}
_PREFIX = {"bert": "Bert", "roberta": "Roberta"}


@dataclasses.dataclass(frozen=True)
class TaskHeads:
    """What stands on an encoder there.

    Attributes:
      architecture: the class.
      modules: our path -> their name.
      settings: what config.json says of it.
    """

    architecture: str
    modules: Mapping[str, str]
    settings: Mapping[str, Any]


def make(
    kind: str,
    task: str,
    num_outputs: int,
    *,
    pool: str,
    dense: bool,
    dropout: float,
    class_names: Sequence[str] | None = None,
) -> TaskHeads | None:
    """The heads of a method that learns from labelled texts.

    Args:
      kind: "bert" or "roberta".
      task: see above.
      num_outputs: of the head.
      pool: of the encoder, what a head of texts stands on.
      dense: whether it has the dense layer.
      dropout: of the head.
      class_names: by number, None: LABEL_0 and so on.

    Returns:
      None where the library has no such classifier: on the mean of the tokens, or without the dense
      layer.
    """
    texts = task in ("classify", "regress")
    known = (pool, dense) in (("pooler", False), ("cls", True)) if texts else not dense
    if not known:
        return None
    names = class_names or [f"LABEL_{i}" for i in range(num_outputs)]
    settings: dict[str, Any] = {"classifier_dropout": dropout}
    settings["id2label"] = {str(i): name for i, name in enumerate(names)}
    settings["label2id"] = {name: i for i, name in enumerate(names)}
    if texts:
        settings["problem_type"] = _PROBLEMS[task]
    modules = _modules(kind, task, pooler=pool == "pooler")
    return TaskHeads(f"{_PREFIX[kind]}For{_CLASSES[task]}", modules, settings)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of a folder's classes by number; None where it has none but LABEL_0 and so on.

    Args:
      config: the folder's config.json.

    Raises:
      UserError: its id2label does not number them from 0.
    """
    labels = config.get("id2label")
    if not labels:
        return None
    try:
        names = {int(number): str(name) for number, name in labels.items()}
    except (AttributeError, TypeError, ValueError):
        names = {}
    if sorted(names) != list(range(len(labels))):
        raise UserError(f"config.json has an id2label that does not count from 0: {labels!r:.80}")
    ordered = tuple(names[number] for number in range(len(names)))
    generic = all(re.fullmatch(r"LABEL_[0-9]+", name) for name in ordered)
    return None if generic else ordered


def stored(
    config: Mapping[str, Any], kind: str, task: str | None, pooler: bool
) -> dict[str, str] | None:
    """The modules of a folder's head if a method of this task can take it, ours -> theirs.

    Args:
      config: the folder's config.json.
      kind: "bert" or "roberta".
      task: of the method, None for none.
      pooler: whether its encoder has the dense layer.
    """
    wanted = f"{_PREFIX[kind]}For{_CLASSES[task]}" if task else None
    if wanted not in (config.get("architectures") or ()):
        return None
    problem = config.get("problem_type")  # null: by the number of classes and the labels
    if problem is not None and task in _PROBLEMS and problem != _PROBLEMS[task]:
        return None
    return _modules(kind, task, pooler=pooler)


def _modules(kind: str, task: str, *, pooler: bool) -> dict[str, str]:
    if task == "span":
        return {"head/out": "qa_outputs"}
    if task == "tags":
        return {"head/out": "classifier"}
    dense = "encoder/pooler" if pooler else "head/dense"
    if kind == "bert":
        return {dense: "bert.pooler.dense", "head/out": "classifier"}
    return {dense: "classifier.dense", "head/out": "classifier.out_proj"}
