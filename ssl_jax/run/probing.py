"""Frozen features of whole data sets, and the probes on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import data, evals, parallel
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled import labelled_text
from ssl_jax.evals import features as features_lib
from ssl_jax.evals import held_out, text_metrics, transformations
from ssl_jax.evals.on_features import check_frames
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.experiment.build import Experiment

PyTree = Any
_COUNTED_ROWS = 20_000  # of a long text; so many tell the frequencies of its tokens
_COUNTED_AT_A_TIME = 1024
Encode = Callable[[Any], Mapping[str, jax.Array]]
Features = dict[str, np.ndarray]
FACTORS = "factors"


class Prober:
    """Probes encoders on one pair of splits, which it loads once.

    Args:
      config: the resolved config; its eval section says what to probe and how.
      mesh: devices over which features are computed, batch by batch.
      dataset: the data set to probe on; default `eval.data`, else the training set.
      workdir: of the run, whose tokenizer reads other text.
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
        spec = data.spec_from_config(config.data)
        self._modality, self._num_classes = spec.modality, spec.num_classes
        # What the run's texts are labelled for, see `DataSpec`; None where they are not.
        self.task: str | None = spec.task
        self.dataset = dataset or config.eval.data or config.data.name

    @functools.cached_property
    def train(self) -> data.Source:
        """The split that probes are fitted on."""
        return self.source(self.config.eval.train_split)

    @functools.cached_property
    def test(self) -> data.Source:
        """The split that probes are scored on."""
        return self.source(self.config.eval.test_split)

    def scored_on(self, split: str) -> Prober:
        """The same, scored on another split than `eval.test_split`."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.eval.test_split = split
        return Prober(config, self.mesh, self.dataset, workdir=self._workdir)

    def _train_subset(self) -> np.ndarray | None:
        """Indices of a fixed random part of `train`, None for all of it."""
        limit = self.config.eval.max_train_examples
        if not limit or limit >= len(self.train):
            return None
        return np.sort(np.random.default_rng(0).choice(len(self.train), limit, replace=False))

    def source(self, split: str) -> data.Source:
        """A split of the data set as evaluation sees it: whole images, nothing random.

        Raises:
          UserError: the data set or the split does not exist.
        """
        return data.from_config(self._section(split), seed=self.config.seed)

    def check_splits(self, *, held_out: bool) -> None:
        """Looks for the splits that will be scored, before a run takes its hours.

        Args:
          held_out: whether the method is scored on what is hidden of the test split.

        Raises:
          UserError: there is no such split.
        """
        section = self.config.eval
        labelled = self._num_classes or (section.data and self._modality == "image")
        wanted = []
        if section.transformations or (labelled and (section.names or section.final_names)):
            wanted = ["train_split", "test_split", "validation_split"]
        elif self.task or held_out:
            wanted = ["test_split", "validation_split"]
        wanted = [key for key in wanted if section[key] is not None]
        if not wanted:
            return
        found, splits = data.missing_splits(
            self._section(section.test_split), [section[key] for key in wanted]
        )
        for key, missing in zip(wanted, found, strict=True):
            if missing:
                part = splits[0]
                raise UserError(
                    f"eval.{key} is {section[key]!r}, and {self.dataset} has no split "
                    f"{missing[0]!r}, only {', '.join(splits)}.{nearest(missing[0], splits)} Score "
                    f"on a part that is not trained on: data.split='{part}[:90%]' "
                    f"eval.{key}='{part}[90%:]'"
                )

    def _section(self, split: str) -> ConfigDict:
        """The config's data section for a split, as evaluation reads it."""
        section = self.config.data.copy_and_resolve_references()
        section.unlock()
        if self.dataset != section.name:  # another data set keeps the canvas, not the options
            section.options = self._options_elsewhere(section.options)
        section.update(name=self.dataset, split=split)
        section.host_crops = ConfigDict()  # evaluation reads whole images
        section.labelled_fraction = None  # what a run may learn from; probes have all labels
        if self._modality == "image":
            section.options.center = self.config.eval.center
        return section

    def _options_elsewhere(self, options: ConfigDict) -> ConfigDict:
        """Of the run's data options, those that hold for another data set.

        Text keeps its rows, and its tokens: those of another tokenizer would mean other words.
        """
        if self._modality != "text":
            return ConfigDict()
        if self.tokenizer is None:
            raise UserError(
                f"{self.dataset} is other text than the run's, which has no tokenizer.json to "
                "read it with; copy the one of its token cache into the workdir"
            )
        names = ["sequence_length", "vocabulary", "cache_dir"]
        more = {"tokenizer": self.tokenizer}
        if self.task is None:
            names += ["rows", "word_start"]
        elif labelled_text.has_tasks(self.dataset.partition(":")[0]):
            names += ["stride", "query_length", "class_names"]
            more["task"] = self.task
        else:  # a corpus, whose documents are cut into rows
            more["rows"] = "padded"
        return ConfigDict({name: options[name] for name in names if name in options} | more)

    @property
    def labelled(self) -> bool:
        """Whether the data set has labels to probe with: a class an example."""
        spec = self.train.spec
        return bool(spec.num_classes) and spec.task in (None, "classify")

    @property
    def num_classes(self) -> int:
        """Label classes of the data set.

        Raises:
          UserError: it has no labels.
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
          encode: batch of uint8 images and labels -> {"h": [n d], ...}.
          source: the data.
          subset: indices into it, default all.
          targets: arrays of the data to deliver beside the features, where the data have them:
            those of a batch, and `factors` float32 [N f], the true factors of generated data.

        Returns:
          h, z, ... float32 [N d], the targets, and index int32 [N], in the order of the source.
        """
        rows = features_lib.extract(
            encode, self.batches(source, subset), targets=tuple(targets), gather=parallel.gather
        )
        factors = getattr(source, FACTORS, None)
        if FACTORS in targets and factors is not None:
            rows[FACTORS] = factors[rows["index"]]
        return rows

    def batches(self, source: data.Source, subset: np.ndarray | None = None) -> Any:
        """Every example once as global device batches, the last one padded (`mask` False)."""
        rows_over = parallel.batch_shards(self.mesh)
        size = -(-min(self.config.eval.batch_size, len(source)) // rows_over) * rows_over
        rows = parallel.local_rows(self.mesh, size)
        for batch in data.epoch_batches(
            source, size, rows=rows, subset=subset, workers=self.config.data.workers
        ):
            yield parallel.to_global(batch, self.mesh, rows, size)

    def evaluations(self, names: Sequence[str]) -> tuple[Evaluation, ...]:
        """The evaluations of these names that the data set allows, with their options.

        Of data without labels, those that need `label` are left out.

        Raises:
          UserError: an unknown name or option, or the data set lacks another array that one needs.
        """
        loaded = evals.load_all(names, self.config.eval)
        kept = [one for one in loaded if self.labelled or LABEL not in one.needs]
        arrays = {*self.train.spec.arrays}
        if getattr(self.train, FACTORS, None) is not None:
            arrays.add(FACTORS)
        for evaluation in kept:
            for need in evaluation.needs:
                if need not in arrays:
                    raise UserError(
                        f"evaluation {evaluation.name!r} needs {need!r}, and {self.dataset} has "
                        f"{', '.join(sorted(arrays))}.{nearest(need, arrays)}"
                    )
        return tuple(kept)

    def evaluate(
        self, encode: Encode, names: Sequence[str | Evaluation], feature: str = "h"
    ) -> dict[str, float]:
        """The named evaluations of `encode`'s features: flat, e.g. {"knn/top1": 0.95}.

        The train split is encoded only if one of them fits something.

        Args:
          encode: batch -> features by name.
          names: of the evaluations, or the evaluations.
          feature: what evaluations of no particular output are of.

        Raises:
          UserError: `encode` does not make what one of them takes.
        """
        chosen = [
            evals.load(name, self.config.eval) if isinstance(name, str) else name for name in names
        ]
        needs_label = any(LABEL in evaluation.needs for evaluation in chosen)
        num_classes = self.num_classes if needs_label else None
        train = None
        if fitted := [evaluation for evaluation in chosen if evaluation.fits]:
            train = self._features_for(encode, fitted, feature, self.train, self._train_subset())
        test = self._features_for(encode, chosen, feature, self.test)
        return evals.evaluate(
            chosen, train, test, num_classes=num_classes,
            factor_names=getattr(self.test, "factor_names", None) or (),
            config=self.config.eval, seed=self.config.seed, feature=feature,
        )  # fmt: skip

    def _features_for(
        self,
        encode: Encode,
        evaluations: Sequence[Evaluation],
        feature: str,
        source: data.Source,
        subset: np.ndarray | None = None,
    ) -> Features:
        """The features and targets of one split that some evaluations take."""
        targets = {LABEL}.union(*(evaluation.needs for evaluation in evaluations))
        return self.features(_only(encode, evaluations, feature), source, subset, sorted(targets))

    def transformation(self, encode: Encode, name: str, feature: str = "h") -> dict[str, float]:
        """How well a nonlinear probe tells what was done to images: {"rotation/mlp/top1": ...}.

        Args:
          encode: batch -> features by name.
          name: of the change, see `ssl_jax.evals.transformations`.
          feature: what the probe is given.
        """

        def changed(batch: Any) -> Any:
            image, label = transformations.transform(name, batch["image"], batch["index"])
            return {**batch, "image": image, "label": label}

        train, test = (
            features_lib.extract(
                _only(encode, evals.load_all(["mlp"], self.config.eval), feature),
                map(changed, self.batches(source, subset)),
                gather=parallel.gather,
            )
            for source, subset in ((self.train, self._train_subset()), (self.test, None))
        )
        found = evals.evaluate(
            ("mlp",), train, test, num_classes=transformations.task(name).classes,
            config=self.config.eval, seed=self.config.seed, feature=feature,
        )  # fmt: skip
        return {f"{name}/{metric}": value for metric, value in found.items()}

    def task_scores(self, encode: Encode) -> dict[str, float]:
        """How well a method does what the texts are labelled for: flat, e.g. {"task/f1": 0.9}.

        Nothing is fitted, so the train split is not looked at. Which scores there are, says the
        data set; see `ssl_jax.evals.text_metrics`.

        Raises:
          UserError: the method does not make what is scored, or the data set is of another task, or
            has no labels.
        """
        if self.test.spec.task != self.task:
            raise UserError(
                f"{self.dataset} is of the task {self.test.spec.task}, and this run has learned "
                f"{self.task}"
            )
        wanted = text_metrics.PREDICTIONS[self.task]

        def predictions(batch: Any) -> dict[str, jax.Array]:
            found = encode(batch)
            if not set(wanted) <= set(found):
                raise UserError(
                    f"the task {self.task!r} is scored by {' and '.join(wanted)}, and this method "
                    f"makes {', '.join(sorted(found))}"
                )
            return {name: found[name] for name in wanted}

        threshold = self.config.eval.get("null_threshold", 0.0)  # older runs' configs have none
        score = text_metrics.for_source(self.test, null_threshold=threshold)
        found = score(self.features(predictions, self.test))
        return {f"task/{name}": value for name, value in found.items()}

    def held_out(self, score: Encode) -> tuple[dict[str, float], dict[str, float]]:
        """How well what is hidden of the test split is predicted.

        Args:
          score: batch -> `Method.held_out` of it.

        Returns:
          (metrics, those of guessing by frequency): see `ssl_jax.evals.held_out`; the latter is
          empty where no tokens are predicted.
        """
        limit = self.config.eval.max_held_out_examples
        subset = _evenly(len(self.test), limit)
        rows = self.features(score, self.test, subset)
        guessed = held_out.unigram(rows, self.token_counts) if "targets" in rows else {}
        return held_out.scores(rows), guessed

    @functools.cached_property
    def token_counts(self) -> np.ndarray:
        """How often each token occurs in the train split, int64 [v]; special tokens never."""
        vocabulary = self.train.spec.vocabulary
        counts = np.zeros(vocabulary.size, np.int64)
        rows = _evenly(len(self.train), _COUNTED_ROWS)
        rows = np.arange(len(self.train)) if rows is None else rows
        for first in range(0, len(rows), _COUNTED_AT_A_TIME):
            batch = self.train.batch(rows[first : first + _COUNTED_AT_A_TIME])
            real = batch["tokens"][batch["segment"] > 0]
            counts += np.bincount(real, minlength=vocabulary.size)
        counts[list(vocabulary.special)] = 0
        return counts


def _evenly(count: int, limit: int | None) -> np.ndarray | None:
    """`limit` of `count` numbers at equal distances, None for all of them."""
    if not limit or limit >= count:
        return None
    return np.linspace(0, count - 1, limit).astype(int)


def _only(encode: Encode, evaluations: Sequence[Evaluation], feature: str) -> Encode:
    """`encode` without the outputs that no evaluation takes: they may not fit on the host."""
    needed = sorted({evaluation.feature_of(feature) for evaluation in evaluations})

    def selected(batch: Any) -> dict[str, jax.Array]:
        outputs = encode(batch)
        check_features(evaluations, outputs, feature)
        return {name: outputs[name] for name in needed}

    return selected


def check_features(
    evaluations: Sequence[Evaluation],
    outputs: Mapping[str, Any],
    feature: str = "h",
    targets: Mapping[str, Any] | None = None,
) -> None:
    """Checks that a method makes what evaluations take.

    Args:
      evaluations: to be run.
      outputs: of the method by name, arrays or their shapes.
      feature: what evaluations of no particular output take.
      targets: shapes of an example's arrays, where their dimensions are to be checked too.

    Raises:
      UserError: one takes another output, or one with other dimensions.
    """
    for evaluation in evaluations:
        name, needed = evaluation.name, evaluation.feature_of(feature)
        if needed not in outputs:
            where = "--evals, eval.names and eval.final_names"
            raise UserError(
                f"evaluation {name!r} is of {needed!r}, and this method makes "
                f"{', '.join(sorted(outputs))}; leave it out of "
                f"{'eval.features' if needed == feature != 'h' else where}"
            )
        rank = len(outputs[needed].shape)
        if rank not in (2, 3):
            raise UserError(
                f"evaluation {name!r} takes features [n d] or frames [n t d], and {needed!r} has "
                f"{rank} dimensions"
            )
        if targets is not None and evaluation.target in targets:
            target_rank = 1 + len(targets[evaluation.target].shape)
            check_frames(evaluation, needed, rank, target_rank)


def check_names(experiment: Experiment) -> None:
    """Looks at `eval.names` and `eval.final_names` before a run takes its hours.

    Raises:
      UserError: there is no such evaluation, or it takes what the method does not make.
    """
    section = experiment.config.eval
    features = tuple(section.features)
    if len(set(features)) < len(features) or "h" not in features:
        raise UserError(
            f"eval.features is {features}; it names different outputs, and h is one of them"
        )
    for name in section.transformations:
        transformations.task(name)
        if experiment.spec.modality != "image":
            raise UserError(
                f"eval.transformations {name!r} changes images, and "
                f"{experiment.config.data.name} has none"
            )
    every = evals.load_all((*section.names, *section.final_names), section)
    final = evals.load_all(section.final_names, section)
    state, batch = experiment.abstract_state, experiment.spec.evaluated.batch(1)
    outputs = jax.eval_shape(experiment.method.features, state.weights, batch)
    targets = experiment.spec.arrays
    check_features(every, outputs, targets=targets)
    for feature in features:
        check_features(final, outputs, feature, targets)


def raw_pixels(batch: Any) -> dict[str, jax.Array]:
    """The features of the baseline that every encoder has to beat: pixels in [0, 1], flattened."""
    image = batch["image"]
    return {"h": image.reshape(image.shape[0], -1).astype(np.float32) / 255.0}
