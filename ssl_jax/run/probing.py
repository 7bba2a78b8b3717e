"""Evaluates encoders: loads the splits, computes frozen features, runs the evaluations."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import data, evals, modalities, parallel
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import Method
from ssl_jax.data import class_names
from ssl_jax.data import classes as classes_lib
from ssl_jax.evals import decompositions
from ssl_jax.evals import features as features_lib
from ssl_jax.evals.model import Model
from ssl_jax.evals.on_features import check_features
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.evals.shared_factor import Rendered
from ssl_jax.experiment.epoch import device_batches
from ssl_jax.modalities.base import OtherData
from ssl_jax.tasks import TASKS

PyTree = Any
_COUNTED_ROWS = 20_000  # enough to estimate the frequencies of tokens
_COUNTED_AT_A_TIME = 1024
Encode = Callable[[Any], Mapping[str, jax.Array]]
Features = dict[str, np.ndarray]
FACTORS = "factors"
MASKS = "masks"  # of pixels; evaluations read them from the source, see `ssl_jax.data.masks`


class Prober:
    """Evaluates encoders on one pair of splits, which it loads once.

    Args:
      config: the resolved config; its eval section sets the evaluations.
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
        # What the last call of `evaluate` predicts of each test example, by evaluation and array.
        self.outcomes: dict[str, dict[str, np.ndarray]] = {}

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

    def scored_on(self, split: str) -> Prober:
        """A copy that is scored on `split` instead of `eval.test_split`."""
        other = copy.copy(self)  # the train split is read once
        other.config = self.config.copy_and_resolve_references()
        with other.config.unlocked():
            other.config.eval.test_split = split
        vars(other).pop("test", None)
        return other

    def on(self, dataset: str) -> Prober:
        """A prober of another data set, with the same config."""
        return Prober(self.config, self.mesh, dataset, workdir=self._workdir)

    def train_subset(self) -> np.ndarray | None:
        """Indices of the examples of `train` that probes are fitted on, int [n]; None: all."""
        limit = self.config.eval.max_train_examples
        if not limit or limit >= len(self.train):
            return None
        return np.sort(np.random.default_rng(0).choice(len(self.train), limit, replace=False))

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

    def check_classes(self, evaluations: Sequence[Evaluation]) -> None:
        """Checks that the data have the run's classes if an evaluation scores what it says of them.

        Raises:
          UserError: both know the names of their classes, and the names differ.
        """
        for evaluation in evaluations:
            if evaluation.of_run_classes:
                class_names.check_same(
                    self.config.data.class_names,
                    self.test.class_names,
                    self.test.name,
                    f"evaluation {evaluation.name!r} is for the classes that were learned: name "
                    "the data's as the run's, or fit a probe to them, e.g. --evals=linear",
                )

    @property
    def classes_by_number(self) -> bool:
        """Whether the data's classes or the run's have no names, so that only numbers match."""
        return self.config.data.class_names is None or self.test.class_names is None

    def check_splits(self, method: Method) -> None:
        """Checks before a long run that the splits of its evaluations exist.

        Args:
          method: the method to evaluate.

        Raises:
          UserError: a split does not exist.
        """
        section = self.config.eval
        planned = [
            evaluation
            for evaluation in self.planned((*section.names, *section.final_names), method)
            if self.may_have_labels or LABEL not in evaluation.needs
        ]
        keys = ["test_split", "validation_split"] if planned else []
        fitted = any(evaluation.fits for evaluation in planned)
        if planned and (fitted or decompositions.are_fitted(section.baselines)):
            keys.insert(0, "train_split")
        named = {f"eval.{key}": section[key] for key in keys if section[key] is not None}
        for evaluation in planned:
            named |= evaluation.other_splits
        if not named:
            return
        missing, splits = data.missing_splits(
            self._section(section.test_split), list(named.values())
        )
        for (key, split), names in zip(named.items(), missing, strict=True):
            if names:
                part = splits[0]
                raise UserError(
                    f"{key} is {split!r}, but {self.dataset} has no split "
                    f"{names[0]!r}, only {', '.join(splits)}.{nearest(names[0], splits)} Score "
                    f"on a part that is not trained on: data.split='{part}[:90%]' "
                    f"{key}='{part}[90%:]'"
                )

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

    @property
    def may_have_labels(self) -> bool:
        """Whether the data set has class labels, as far as that is known before it is opened."""
        return bool(self._spec.num_classes or self.config.eval.data)

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

    def features(
        self,
        encode: Encode,
        source: data.Source,
        subset: np.ndarray | None = None,
        targets: Collection[str] = (LABEL,),
    ) -> Features:
        """`encode` over every example of `source` (or of `subset`), on every process.

        Args:
          encode: batch -> {"h": [n d], ...}.
          source: the data.
          subset: indices into `source`, default all.
          targets: arrays to return with the features, if the data have them: arrays of a batch, and
            `factors` float32 [N f], the true factors of generated data.

        Returns:
          h, z, ... float32 [N d], the targets, and index int32 [N], in the order of the source.
        """
        rows = features_lib.extract(
            encode, self.batches(source, subset), targets=tuple(targets), gather=parallel.gather
        )
        if FACTORS in targets and FACTORS in self._arrays_of(source):
            rows[FACTORS] = source.read_factors()[rows["index"]]
        return rows

    def batches(
        self,
        source: data.Source,
        subset: np.ndarray | None = None,
        *,
        batch_size: int | None = None,
    ) -> Any:
        """The examples, in the order of `subset`, as global device batches.

        The last batch is padded (`mask` False). Default: all examples, and `eval.batch_size`.
        """
        return device_batches(self.config, source, self.mesh, subset, batch_size)

    def evaluations(
        self, names: Sequence[str], method: Method | None = None
    ) -> tuple[Evaluation, ...]:
        """The evaluations of these names that the data set allows, with their options.

        If the data set has no labels, evaluations that need `label` are left out.

        Args:
          names: of evaluations.
          method: the method to evaluate; if given, the automatic evaluations are added.

        Raises:
          UserError: an unknown name or option; an evaluation needs another array that the data set
            lacks, or does not apply to the method.
        """
        possible = tuple(
            evaluation
            for evaluation in self.planned(names, method)
            if LABEL not in evaluation.needs or self.labelled
        )
        for evaluation in possible:
            self.check_needs(evaluation)
        return possible

    def check_needs(self, evaluation: Evaluation) -> None:
        """Checks that the data set has the arrays that an evaluation needs.

        Raises:
          UserError: it lacks one.
        """
        arrays = self._arrays_of(self.train if evaluation.fits else self.test)
        for need in evaluation.needs:
            if need not in arrays:
                raise UserError(
                    f"evaluation {evaluation.name!r} needs {need!r}, but {self.dataset} has "
                    f"{', '.join(sorted(arrays))}.{nearest(need, arrays)}"
                )

    def planned(self, names: Sequence[str], method: Method | None) -> tuple[Evaluation, ...]:
        """The evaluations of these names, and the automatic ones that apply to the method."""
        loaded = evals.load_all(names, self.config.eval)
        if method is None:
            return loaded
        for evaluation in loaded:
            evaluation.check_applies(method, self._spec)
        return loaded + tuple(
            evaluation
            for evaluation in evals.automatic(self.config.eval)
            if evaluation.applies(method, self._spec) and evaluation.name not in names
        )

    @staticmethod
    def _arrays_of(source: data.Source) -> set[str]:
        has_factors = getattr(source, "factor_names", None) is not None
        has_masks = getattr(source, "masks", None) is not None
        return {
            *source.spec.arrays, *([FACTORS] if has_factors else []),
            *([MASKS] if has_masks else []),
        }  # fmt: skip

    def evaluate(
        self,
        model: Model | Encode,
        evaluations: Sequence[str | Evaluation],
        feature: str = "h",
        *,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> dict[str, float]:
        """Evaluates a model, or a function that computes features.

        The train split is encoded only if one of the evaluations fits a probe.

        Args:
          model: the model, or its function batch -> features by name.
          evaluations: names, or loaded evaluations.
          feature: the output to evaluate, for evaluations that do not name one.
          on_error: called with the name and the error of an evaluation that fails. Its metrics are
            then missing. None raises the error.

        Returns:
          The metrics as a flat dict, e.g. {"knn/top1": 0.95}.

        Raises:
          UserError: the model lacks an output that an evaluation takes, or see `check_classes`.
        """
        model = model if isinstance(model, Model) else Model(model)
        loaded = [
            evals.load(evaluation, self.config.eval) if isinstance(evaluation, str) else evaluation
            for evaluation in evaluations
        ]
        on_error = on_error or _raise
        possible = []
        for evaluation in loaded:
            try:
                self.check_classes([evaluation])
            except Exception as error:
                on_error(evaluation.name, error)
            else:
                possible.append(evaluation)
        metrics = {}
        self.outcomes = {}
        of_features = [evaluation for evaluation in possible if not evaluation.of_model]
        if of_features:
            metrics = self._evaluate_features(model, of_features, feature, on_error)
        for evaluation in possible:
            if not evaluation.of_model:
                continue
            try:
                metrics |= evaluation.call(
                    model=model,
                    prober=self,
                    feature=evaluation.feature_of(feature),
                    seed=self.config.seed,
                )
            except Exception as error:
                on_error(evaluation.name, error)
        return metrics

    def _evaluate_features(
        self,
        model: Model,
        evaluations: Sequence[Evaluation],
        feature: str,
        on_error: Callable[[str, Exception], None],
    ) -> dict[str, float]:
        train = None
        if fitted := [evaluation for evaluation in evaluations if evaluation.fits]:
            try:
                train = self._features_for(model, fitted, feature, self.train, self.train_subset())
            except Exception as error:
                for evaluation in fitted:
                    on_error(evaluation.name, error)
                evaluations = [other for other in evaluations if not other.fits]
        if not evaluations:
            return {}
        try:
            test = self._features_for(model, evaluations, feature, self.test)
        except Exception as error:
            for evaluation in evaluations:
                on_error(evaluation.name, error)
            return {}
        return evals.evaluate(
            evaluations,
            train,
            test,
            num_classes=self.num_classes
            if any(LABEL in evaluation.needs for evaluation in evaluations)
            else None,
            factor_names=getattr(self.test, "factor_names", None) or (),
            label_names=getattr(self.test, "label_names", None) or (),
            config=self.config.eval,
            seed=self.config.seed,
            feature=feature,
            on_error=on_error,
            rendered=self._rendered(model),
            outcomes=self.outcomes,
        )

    def _rendered(self, model: Model) -> Callable[[str], Rendered] | None:
        """Name of an output -> new examples of the data set, encoded; None if it renders none."""
        renderer = getattr(self.test, "renderer", None)
        if renderer is None:
            return None

        def of_output(name: str) -> Rendered:
            def selected(batch: Any) -> dict[str, jax.Array]:
                return {name: model.outputs(batch, (name,))[name]}

            return Rendered(
                renderer.draw,
                lambda factors: self.features(selected, renderer.source(factors), targets=())[name],
            )

        return of_output

    def _features_for(
        self,
        model: Model,
        evaluations: Sequence[Evaluation],
        feature: str,
        source: data.Source,
        subset: np.ndarray | None = None,
    ) -> Features:
        """The features and targets of one split that `evaluations` take."""
        targets = {LABEL}.union(*(evaluation.needs for evaluation in evaluations))
        encode = _selected(model, evaluations, feature)
        return self.features(encode, source, subset, sorted(targets))

    def evaluate_changed(
        self,
        model: Model,
        evaluations: Sequence[str],
        feature: str,
        change: Callable[[Any], Any],
        num_classes: int,
    ) -> dict[str, float]:
        """Like `evaluate`, with batches whose inputs and labels are changed before encoding.

        Args:
          model: the model.
          evaluations: names of evaluations of features.
          feature: the output to evaluate, for evaluations that do not name one.
          change: batch -> the batch with other inputs and labels.
          num_classes: number of classes of the new labels.
        """
        loaded = evals.load_all(evaluations, self.config.eval)
        train, test = (
            features_lib.extract(
                _selected(model, loaded, feature),
                map(change, self.batches(source, subset)),
                gather=parallel.gather,
            )
            for source, subset in ((self.train, self.train_subset()), (self.test, None))
        )
        return evals.evaluate(
            loaded, train, test, num_classes=num_classes, seed=self.config.seed, feature=feature
        )

    @staticmethod
    def evenly(source: data.Source, limit: int | None) -> np.ndarray | None:
        """Indices of `limit` equally spaced examples, int [limit]; None: all examples."""
        if not limit or limit >= len(source):
            return None
        return np.linspace(0, len(source) - 1, limit).astype(int)

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


def _raise(name: str, error: Exception) -> None:
    del name
    raise error


def _selected(model: Model, evaluations: Sequence[Evaluation], feature: str) -> Encode:
    """A function batch -> the outputs that evaluations take; the others may not fit in memory."""
    needed = sorted({evaluation.feature_of(feature) for evaluation in evaluations})

    def selected(batch: Any) -> dict[str, jax.Array]:
        outputs = model.outputs(batch, needed)
        check_features(evaluations, outputs, feature)
        return {name: outputs[name] for name in needed}

    return selected
