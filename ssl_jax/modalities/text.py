"""The modality of text, as rows of token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method, Vocabulary
from ssl_jax.modalities.base import Modality, OtherData


@dataclasses.dataclass(frozen=True)
class Text(Modality):
    """Rows of tokens. Raw tokens are not used as features; the baseline of a task is TF-IDF."""

    def spec(
        self,
        length: int,
        vocabulary: Vocabulary,
        num_examples: int,
        num_classes: int | None,
        more: Mapping[str, tuple[tuple[int, ...], Any]],
        task: str | None = None,
    ) -> DataSpec:
        """The DataSpec of text.

        Args:
          length: tokens per row, padding included.
          vocabulary: of the tokens.
          num_examples, num_classes: of the training set.
          more: further arrays, name -> (shape for one example, dtype).
          task: the task of the labels, see `ssl_jax.tasks`; None for no task.
        """
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            **dict.fromkeys(("tokens", "segment", "position"), ((length,), np.int32)),
            **more,
            "label": ((), np.int32),
            "index": ((), np.int32),
        }
        return DataSpec(
            arrays={name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()},
            num_examples=num_examples,
            num_classes=num_classes,
            modality=self.name,
            vocabulary=vocabulary,
            task=task,
        )

    def units(self, spec: DataSpec) -> int:
        return spec.arrays["tokens"].shape[0]

    def facts(self, spec: DataSpec) -> dict[str, Any]:
        return {"options": {"vocabulary": dataclasses.asdict(spec.vocabulary)}}

    def describe_inputs(self, method: Method, spec: DataSpec) -> dict[str, Any]:
        del method
        return {"input": "tokens", "vocabulary": dataclasses.asdict(spec.vocabulary)}

    def options_elsewhere(self, options: Mapping[str, Any], other: OtherData) -> dict[str, Any]:
        """Text keeps the format of its rows and the tokenizer of the run."""
        if other.tokenizer is None:
            raise UserError(
                f"{other.name} cannot be read: the run has no tokenizer.json; copy it from the "
                "run's token cache into the workdir"
            )
        names = ["sequence_length", "vocabulary", "cache_dir"]
        more = {"tokenizer": other.tokenizer}
        if other.task is None:
            names += ["rows", "word_start"]
        elif other.has_task:
            names += ["stride", "query_length", "class_names"]
            more["task"] = other.task
        else:  # a corpus: its documents are split into rows
            more["rows"] = "padded"
        return {name: options[name] for name in names if name in options} | more

    def report(self, prober: Any, encode: Any) -> dict[str, Any]:
        """The text of every token, and how often each occurs."""
        del encode
        return {"pieces": prober.test.token_texts(), "token_counts": prober.token_counts}


TEXT = Text(
    name="text",
    unit="tokens",
    short_unit="tokens",
    batch={
        "tokens": "int32 [n l], ids of tokens",
        "segment": "int32 [n l], the number of the packed text from 1; 0 for padding",
        "position": "int32 [n l], within that text",
        "type": "int32 [n l], of pairs of texts: 0 for the first, 1 for the second",
    },
)
