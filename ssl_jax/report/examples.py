"""The examples of a report: their representations, labels and pictures."""

from __future__ import annotations

import dataclasses

import numpy as np

from ssl_jax.report.inputs import ReportInputs


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples with finite representations; unlabelled examples have the label -1."""

    embedding: np.ndarray  # [n d]
    projected: np.ndarray | None  # [n d']
    pixels: np.ndarray | None  # [n h w c]
    labels: np.ndarray  # [n]
    num_dropped: int

    @classmethod
    def from_inputs(cls, inputs: ReportInputs) -> Examples | None:
        """The finite examples of a report; None if it has none."""
        if inputs.embedding is None:
            return None
        embedding = np.asarray(inputs.embedding, np.float32)
        finite = np.isfinite(embedding).all(axis=1)
        projected = inputs.projected
        if projected is not None:
            projected = np.asarray(projected, np.float32)
            finite &= np.isfinite(projected).all(axis=1)
            projected = projected[finite]
        labels = np.full(len(embedding), -1) if inputs.labels is None else inputs.labels
        pixels = None if inputs.pixels is None else np.asarray(inputs.pixels)[finite]
        dropped = int((~finite).sum())
        return cls(embedding[finite], projected, pixels, np.asarray(labels)[finite], dropped)

    @property
    def labelled(self) -> bool:
        return bool((self.labels >= 0).any())

    @property
    def dropped(self) -> str:
        """A sentence about omitted examples, with a leading blank; "" if there are none."""
        n = self.num_dropped
        return f" {n} representations are omitted because they are not finite." if n else ""

    def in_words(self, inputs: ReportInputs, count: int) -> str:
        """A description of `count` of the examples."""
        if not inputs.split:
            return f"{count} examples"
        drawn = f", {count} of them drawn at random" if count < len(self.labels) else ""
        return inputs.split + drawn
