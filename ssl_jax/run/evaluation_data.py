"""The splits on which a run is evaluated, and the facts about them."""

from __future__ import annotations

import copy
import functools
from typing import Self

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import data, modalities
from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data import classes as classes_lib
from ssl_jax.modalities.base import OtherData
from ssl_jax.tasks import TASKS

_COUNTED_ROWS = 20_000  # enough to estimate the frequencies of tokens
_COUNTED_AT_A_TIME = 1024


class EvaluationData:
    """A train and a test split of one data set, each loaded once.

    Args:
      config: the resolved config; its eval section names the splits.
      mesh: devices that compute the features, batch by batch.
      dataset: the data set to evaluate on; default `eval.data`, else the training set.
      workdir: of the run; its tokenizer reads text of other data sets.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: jax.sharding.Mesh,
        dataset: str | None = None,
        *,
        workdir: epath.PathLike | None = None,
    ):
        self.config = config
        self._workdir = workdir
        path = None if workdir is None else epath.Path(workdir) / "tokenizer.json"
        self.tokenizer = str(path) if path is not None and path.exists() else None
        self.mesh = mesh
        self._spec = data.spec_from_config(config.data)
        # The task of the run's labelled texts, see `DataSpec`; None without one.
        self.task: str | None = self._spec.task
        self.dataset = dataset or config.eval.data or config.data.name

    @functools.cached_property
    def train(self) -> data.Source:
        """The split that probes are fitted on."""
        return self.source(self.config.eval.train_split)

    @functools.cached_property
    def test(self) -> data.Source:
        """The split that evaluations are scored on."""
        return self.source(self.config.eval.test_split)

    @property
    def classes_of_run(self) -> str | None:
        """`data.classes` of the run; None: all, or these are other data, with other classes."""
        return self.config.data.classes if self.dataset == self.config.data.name else None

    def scored_on(self, split: str) -> Self:
        """A copy that is scored on `split` instead of `eval.test_split`."""
        other = copy.copy(self)  # the train split is read once
        other.config = self.config.copy_and_resolve_references()
        with other.config.unlocked():
            other.config.eval.test_split = split
        vars(other).pop("test", None)
        return other

    def on(self, dataset: str) -> Self:
        """The same for another data set, with the same config."""
        return type(self)(self.config, self.mesh, dataset, workdir=self._workdir)

    def source(self, split: str, classes: str | None = None) -> data.Source:
        """A split of the data set as evaluation reads it: whole images, nothing random.

        Classes of the run's names have the numbers that they have there.

        Args:
          split: the split.
          classes: of a run that is trained on some classes, which ones; None: `eval.classes`.

        Raises:
          UserError: the data set or the split does not exist.
        """
        section = self._section(split)
        which = classes or self.config.eval.classes
        section.classes = classes_lib.evaluated(self.classes_of_run, which)
        source = data.from_config(section, seed=self.config.seed)
        return class_names.matched(source, self.config.data.class_names)

    def _section(self, split: str) -> ConfigDict:
        """The config's data section of a split, as evaluation reads it."""
        section = self.config.data.copy_and_resolve_references()
        section.unlock()
        modality = modalities.of(self._spec)
        if self.dataset != section.name:
            section.options = ConfigDict(
                modality.options_elsewhere(
                    section.options,
                    OtherData(
                        self.dataset,
                        has_task=bool(data.kind_of(self.dataset)[0].tasks),
                        task=self.task,
                        tokenizer=self.tokenizer,
                    ),
                )
            )
        section.update(name=self.dataset, split=split)
        section.class_names = None  # of other data they may be others; see `source`
        section.host_crops = ConfigDict()  # evaluation reads whole images
        section.labelled_fraction = None  # limits training only; probes use all labels
        section.options.update(modality.evaluation_options(self.config.eval))
        return section

    def train_subset(self) -> np.ndarray | None:
        """Indices of the examples of `train` that probes are fitted on, int [n]; None: all."""
        limit = self.config.eval.max_train_examples
        if not limit or limit >= len(self.train):
            return None
        return np.sort(np.random.default_rng(0).choice(len(self.train), limit, replace=False))

    @staticmethod
    def evenly(source: data.Source, limit: int | None) -> np.ndarray | None:
        """Indices of `limit` equally spaced examples, int [limit]; None: all examples."""
        if not limit or limit >= len(source):
            return None
        return np.linspace(0, len(source) - 1, limit).astype(int)

    @property
    def classes_by_number(self) -> bool:
        """Whether the data's classes or the run's have no names, so that only numbers match."""
        return self.config.data.class_names is None or self.test.class_names is None

    @property
    def may_have_labels(self) -> bool:
        """Whether the data set has class labels, as far as that is known before it is opened."""
        return bool(self._spec.num_classes) or self.dataset != self.config.data.name

    @property
    def labelled(self) -> bool:
        """Whether the data set has a class label per example, as probes need it."""
        spec = self.train.spec
        return bool(spec.num_classes) and (spec.task is None or TASKS[spec.task].labels_examples)

    @property
    def num_classes(self) -> int:
        """Label classes of the data set.

        Raises:
          UserError: the data set has no labels.
        """
        count = self.train.spec.num_classes
        if not count:
            raise UserError(f"{self.dataset} has no labels; probes need them")
        return count

    @functools.cached_property
    def token_counts(self) -> np.ndarray:
        """Counts of each token in (a sample of) the train split, int64 [v]; 0 for special ones."""
        vocabulary = self.train.spec.vocabulary
        counts = np.zeros(vocabulary.size, np.int64)
        rows = self.evenly(self.train, _COUNTED_ROWS)
        rows = np.arange(len(self.train)) if rows is None else rows
        for first in range(0, len(rows), _COUNTED_AT_A_TIME):
            batch = self.train.batch(rows[first : first + _COUNTED_AT_A_TIME])
            real = batch["tokens"][batch["segment"] > 0]
            counts += np.bincount(real, minlength=vocabulary.size)
        counts[list(vocabulary.special)] = 0
        return counts
