"""The inputs of a report: NumPy arrays, dicts and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core.items import Item

Results = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """Everything on the page. All but `config` may be missing.

    Attributes:
      config: the run's config, nested mappings of primitives.
      name: name of the run; if empty, the name of the workdir.
      method: the method's name in papers, e.g. "SimCLR".
      dataset: the training data, e.g. "digits".
      date: date of the page; today if empty.
      last_step: the step at which the run ended.
      total_steps: the step at which it would have ended without early stopping.
      best_step: the step of the state that the results are of.
      rows: metric rows, `{"step": int, "train/loss": float, ...}`, in any order. Texts under
        "warning" become warnings unless `warnings` is given.
      results: representation -> its probe scores, e.g. `{"raw pixels": {"few_shot/1": 0.60,
        "few_shot/1_std": 0.03, "knn/top1": 0.93, "linear/top1": 0.95}, ..., "SimCLR": {...}}`.
        Evaluations declare their metrics. The last row is the trained model.
      not_computed: representation -> evaluation or metric -> the reason why it has no value.
      shown: title -> item of the method, see `ssl_jax.core.items`.
      pieces: for text, the text of every token, with a blank before tokens that begin a word.
      token_counts: int [v], the number of occurrences of each token.
      preflight: the preflight text.
      warnings: (step, text) of the collapse monitor; None takes them from the rows.
      pixels: uint8 [n h w c], c = 1 or 3: images of the map and the neighbour gallery.
      embedding: float [n d], their representation h by the trained encoder.
      projected: float [n d], their projection z = g(h), for a map beside that of h; or None.
      labels: int [n], -1 = none; None where the data have no labels.
      class_names: name of each label; numbers are shown where it is short or empty.
      split: what these images are, with their number, e.g. "360 images of digits[test]".
      environment: versions, devices, command, commit: label -> text.
      projection: "tsne", or "umap" where umap-learn is installed.
      seed: of the map and of the choice of queries.
    """

    config: Mapping[str, Any]
    name: str = ""
    method: str = ""
    dataset: str = ""
    date: str = ""
    last_step: int | None = None
    total_steps: int | None = None
    best_step: int | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    results: Results = dataclasses.field(default_factory=dict)
    not_computed: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    shown: Mapping[str, Item] = dataclasses.field(default_factory=dict)
    pieces: Sequence[str] = ()
    token_counts: np.ndarray | None = None
    preflight: str = ""
    warnings: Sequence[tuple[int, str]] | None = None
    pixels: np.ndarray | None = None
    embedding: np.ndarray | None = None
    projected: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] = ()
    split: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    projection: str = "tsne"
    seed: int = 0

    def __post_init__(self):
        """Raises ValueError if arrays have a wrong rank or different lengths."""
        self._check_rank("pixels", 4)
        self._check_rank("embedding", 2)
        self._check_rank("projected", 2)
        self._check_rank("labels", 1)
        self._check_same_length("pixels", "embedding", "projected", "labels")
        if self.projection not in ("tsne", "umap"):
            raise ValueError(f"projection {self.projection!r} is neither 'tsne' nor 'umap'")

    def _check_rank(self, name: str, rank: int) -> None:
        array = getattr(self, name)
        if array is not None and np.ndim(array) != rank:
            raise ValueError(f"{name} has shape {np.shape(array)}; it must have {rank} dimensions")

    def _check_same_length(self, *names: str) -> None:
        lengths = {
            name: len(getattr(self, name)) for name in names if getattr(self, name) is not None
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"these must have one length: {lengths}")

    def named(self, name: str) -> ReportInputs:
        """These inputs, with `name` if they have no name."""
        return self if self.name else dataclasses.replace(self, name=name)

    @property
    def eval_section(self) -> Mapping[str, Any] | None:
        """The config's eval section, None where there is none."""
        section = self.config.get("eval")
        return section if hasattr(section, "items") else None

    @property
    def steps_taken(self) -> int | None:
        """The step at which the run ended, by its rows where that is not given; None if unknown."""
        if self.last_step is not None:
            return self.last_step
        return max((int(row["step"]) for row in self.rows), default=None)

    def all_warnings(self) -> list[tuple[int, str]]:
        """(step, text) of every warning, in order of steps, each once."""
        warnings = self.warnings
        if warnings is None:
            warnings = [(int(r["step"]), str(r["warning"])) for r in self.rows if r.get("warning")]
        return sorted({(int(step), str(text)) for step, text in warnings})

    def class_name(self, label: int) -> str:
        """The name of a label; `unlabelled` for negative labels."""
        if label < 0:
            return "unlabelled"
        return str(self.class_names[label]) if label < len(self.class_names) else str(label)
