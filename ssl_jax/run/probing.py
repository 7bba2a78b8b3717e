"""Evaluates encoders: computes frozen features and runs the evaluations."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax import data, evals, parallel
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import Method
from ssl_jax.data import class_names
from ssl_jax.evals import decompositions
from ssl_jax.evals import features as features_lib
from ssl_jax.evals.model import Model
from ssl_jax.evals.on_features import check_features
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.evals.scores import enough_for_all
from ssl_jax.evals.shared_factor import Rendered
from ssl_jax.experiment.epoch import device_batches
from ssl_jax.run.evaluation_data import EvaluationData

PyTree = Any
Encode = Callable[[Any], Mapping[str, jax.Array]]
Features = dict[str, Any]  # name -> array or `SplitRows`
FACTORS = "factors"
MASKS = "masks"  # of pixels; evaluations read them from the source, see `ssl_jax.data.masks`


class Prober(EvaluationData):
    """Evaluates encoders on one pair of splits; the arguments are those of `EvaluationData`."""

    # What the last call of `evaluate` predicts of each test example, by evaluation and array.
    outcomes: Mapping[str, dict[str, np.ndarray]] = types.MappingProxyType({})

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

    def features(
        self,
        encode: Encode,
        source: data.Source,
        subset: np.ndarray | None = None,
        targets: Collection[str] = (LABEL,),
        split: Collection[str] = (),
    ) -> Features:
        """`encode` over every example of `source` (or of `subset`), on every process.

        Args:
          encode: batch -> {"h": [n d], ...}.
          source: the data.
          subset: indices into `source`, default all.
          targets: arrays to return with the features, if the data have them: arrays of a batch, and
            `factors` float32 [N f], the true factors of generated data.
          split: outputs of which each process keeps only its own rows.

        Returns:
          h, z, ... float32 [N d], the targets, and index int32 [N], in the order of the source.
          The outputs in `split` are `SplitRows`.
        """
        rows = features_lib.extract(
            encode,
            self.batches(source, subset),
            targets=tuple(targets),
            gather=parallel.gather,
            split=split,
            own_rows=lambda array: parallel.own_rows(array, self.mesh),
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
        train, split = None, frozenset[str]()
        if fitted := [evaluation for evaluation in evaluations if evaluation.fits]:
            try:
                subset = self.train_subset()
                count = len(self.train if subset is None else subset)
                split = split_outputs(evaluations, feature, count)
                train = self._features_for(model, fitted, feature, self.train, subset, split)
            except Exception as error:
                for evaluation in fitted:
                    on_error(evaluation.name, error)
                evaluations = [other for other in evaluations if not other.fits]
        if not evaluations:
            return {}
        try:
            test = self._features_for(model, evaluations, feature, self.test, split=split)
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
        split: Collection[str] = (),
    ) -> Features:
        """The features and targets of one split that `evaluations` take."""
        targets = {LABEL}.union(*(evaluation.needs for evaluation in evaluations))
        encode = _selected(model, evaluations, feature)
        return self.features(encode, source, subset, sorted(targets), split)

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


def split_outputs(evaluations: Sequence[Evaluation], feature: str, count: int) -> frozenset[str]:
    """The outputs of which each of several processes keeps only its own rows.

    Those that are taken only by evaluations that can do with them, if there are enough examples for
    the devices of all processes.

    Args:
      evaluations: those that are run together.
      feature: the output to evaluate, for evaluations that do not name one.
      count: number of examples of the train split.
    """
    if jax.process_count() == 1 or not enough_for_all(count):
        return frozenset()
    apart = {one.feature_of(feature) for one in evaluations if one.takes_split_rows}
    whole = {one.feature_of(feature) for one in evaluations if not one.takes_split_rows}
    return frozenset(apart - whole)


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
