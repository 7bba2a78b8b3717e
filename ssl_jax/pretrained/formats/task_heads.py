"""Converts heads of fine-tuned BERTs and RoBERTas to the names of the `transformers` library.

    task of the labels   class in transformers
    classify, regress    ...ForSequenceClassification
    tags                 ...ForTokenClassification
    span                 ...ForQuestionAnswering

A classifier of texts has a dense layer with tanh on the first token, followed by a linear layer.
The dense layer is the encoder's pooler in BERT and part of the head in RoBERTa. Here it can be
either.
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
    """The head of an encoder in transformers.

    Attributes:
      architecture: the class of the model.
      modules: our path -> name in transformers, of the head's modules.
      settings: settings of config.json for the head.
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
      task: the task of the labels, see the module.
      num_outputs: number of outputs of the head.
      pool: the encoder's pooling, which gives the input of a head for texts.
      dense: whether the head has the dense layer.
      dropout: dropout rate of the head.
      class_names: names of the classes by number; None for LABEL_0 and so on.

    Returns:
      None if transformers has no such head, e.g. on the mean of the tokens, or without the dense
      layer.
    """
    is_for_texts = task in ("classify", "regress")
    pools = (("pooler", False), ("cls", True))
    exists = (pool, dense) in pools if is_for_texts else not dense
    if not exists:
        return None
    names = class_names or [f"LABEL_{i}" for i in range(num_outputs)]
    settings: dict[str, Any] = {"classifier_dropout": dropout}
    settings["id2label"] = {str(i): name for i, name in enumerate(names)}
    settings["label2id"] = {name: i for i, name in enumerate(names)}
    if is_for_texts:
        settings["problem_type"] = _PROBLEMS[task]
    modules = _modules(kind, task, pooler=pool == "pooler")
    return TaskHeads(f"{_PREFIX[kind]}For{_CLASSES[task]}", modules, settings)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of a folder's classes by number; None without names other than LABEL_0.

    Args:
      config: the folder's config.json.

    Raises:
      UserError: its id2label does not number the classes from 0.
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
    """Our path -> name in transformers, of the modules of a folder's head; None for other tasks.

    Args:
      config: the folder's config.json.
      kind: "bert" or "roberta".
      task: the task of the method; None without a task.
      pooler: whether the method's encoder has the pooler.
    """
    architecture = f"{_PREFIX[kind]}For{_CLASSES[task]}" if task else None
    if architecture not in (config.get("architectures") or ()):
        return None
    problem = config.get("problem_type")  # null: transformers infers it
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
