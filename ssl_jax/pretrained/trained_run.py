"""Loads a trained run and computes features with it.

import ssl_jax

encoder = ssl_jax.load("runs/demo")  # or "runs/demo@450", its checkpoint of step 450
h = encoder.features(images)["h"]  # images uint8 [n h w c] -> float32 [n d]

classifier = ssl_jax.load("runs/finetuned")
logits = classifier.text_features(["one text", "another"])["logits"]  # float32 [n c]
names = [classifier.class_names[i] for i in logits.argmax(axis=1)]
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.checkpoint.choice import folder_and_step, takes_best
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.data.labelled.encoded import framed_texts
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.experiment import evaluated
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.text import TEXT

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A checkpoint's encoder.

    Attributes:
      config: the run's config.
      experiment: the method and nets.
      step: the update the checkpoint was saved at.
      weights: its state, on the devices; `params` are those that were chosen to be evaluated, and
        `ema` is there if they are the moving average.
      workdir: of the run.
      class_names: what the classes are called, by number, as the run has saved them; None where
        its data know no names.
    """

    config: ConfigDict
    experiment: Experiment
    step: int
    weights: Weights
    workdir: str = ""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.config.data.class_names

    def encode(self, batch: Any) -> dict[str, jax.Array]:
        """Features of a device batch: {"h": [n d], "z": [n d']}, float32."""
        return self.experiment.features(self.weights, batch)

    def features(self, images: np.ndarray, *, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Features of images in memory, preprocessed as the method's evaluation does.

        Args:
          images: uint8 [n h w c] (or [n h w] for one channel), c as in training.
          batch_size: images encoded at a time.

        Returns:
          {"h": [n d], "z": [n d']} float32.

        Raises:
          UserError: not uint8, or a wrong shape or number of channels.
        """
        images = np.asarray(images)
        if self.experiment.spec.modality != IMAGE.name:
            raise UserError(f"{self.workdir} reads text; text_features takes some")
        channels = self.experiment.spec.evaluated.arrays["image"].shape[-1]
        if images.ndim == 3 and channels == 1:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != channels:
            raise UserError(
                f"images are {images.dtype} {images.shape}; this encoder takes uint8 "
                f"[n, height, width, {channels}]"
            )
        if not len(images):
            raise UserError("images is empty")
        out: dict[str, list[np.ndarray]] = {}
        size = min(batch_size, len(images))
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            padded = np.pad(chunk, [(0, size - len(chunk))] + [(0, 0)] * 3)
            for name, value in self.encode({"image": padded}).items():
                out.setdefault(name, []).append(np.asarray(value)[: len(chunk)])
        return {name: np.concatenate(parts) for name, parts in out.items()}

    def text_features(
        self,
        texts: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
    ) -> dict[str, np.ndarray]:
        """Features, and what it predicts, of texts in memory.

        Args:
          texts: a list of what the tokenizer of the run reads. A text that is too long is cut at
            its end.
          second: as many texts, each of which is the second of a pair.
          batch_size: texts encoded at a time.

        Returns:
          {"h": [n d]} float32, and of a run that has learned from labels "logits" [n c],
          "prediction" [n], "tags" int32 [n l] or "start" and "end" [n l].

        Raises:
          UserError: the run reads no text or has no tokenizer, or there are no texts, or something
            else than a list of them.
        """
        rows = self._text_rows(
            _listed(texts, "texts"), None if second is None else _listed(second, "second")
        )
        out: dict[str, list[np.ndarray]] = {}
        count = len(rows["tokens"])
        size = min(batch_size, count)
        for start in range(0, count, size):
            chunk = {name: array[start : start + size] for name, array in rows.items()}
            filled = {
                name: np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])
                for name, array in chunk.items()
            }
            for name, value in self.encode(filled).items():
                out.setdefault(name, []).append(np.asarray(value)[: len(chunk["tokens"])])
        return {name: np.concatenate(parts) for name, parts in out.items()}

    def _text_rows(self, texts: list[str], second: list[str] | None) -> dict[str, np.ndarray]:
        """A row of tokens a text, as the arrays of a batch."""
        spec = self.experiment.spec
        path = epath.Path(self.workdir) / "tokenizer.json"
        if spec.modality != TEXT.name:
            raise UserError(f"{self.workdir} reads images; features takes some")
        if not path.exists():
            raise UserError(f"{self.workdir} has no tokenizer.json to read texts with")
        if not texts or (second is not None and len(second) != len(texts)):
            raise UserError(
                f"text_features takes one text or more, and as many second ones; got {len(texts)} "
                f"and {0 if second is None else len(second)}"
            )
        try:
            tokenizer = Tokenizer.from_json(storage.read_text(path))
        except ValueError as error:
            raise UserError(f"{path} is not a tokenizer: {error}") from error
        return framed_texts(tokenizer, spec.arrays["tokens"].shape[0], texts, second)


def _listed(texts: Iterable[str], name: str) -> list[str]:
    """The texts of an argument.

    Raises:
      UserError: it is one string, or holds something else than strings.
    """
    if isinstance(texts, str):
        raise UserError(f"{name} is one string, {texts!r:.40}; put it into a list: [text]")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            pairs = isinstance(text, (tuple, list))
            way_out = "give the second ones of pairs as second=[...]" if pairs else "give strings"
            raise UserError(f"{name}[{i}] is {text!r:.40}, not a text; {way_out}")
    return texts


def load(
    workdir: str,
    step: int | None = None,
    *,
    dtype: str | None = None,
    weights: str | None = None,
) -> TrainedRun:
    """Loads a run's encoder: of the latest checkpoint, or of `step`.

    Of a run whose results are those of its best checkpoint, that one is the default.

    Args:
      workdir: of the run; "runs/x@450" says the step too, as in `init_from`.
      step: of the checkpoint.
      dtype: of the activations; what the run had by default.
      weights: "params", "ema" (the method's moving average) or "polyak"; by default those that the
        run evaluates, its `eval.weights`.

    Raises:
      UserError: no such run or step, or it keeps no such weights.
    """
    workdir, step = _at_step(os.fspath(workdir), step)
    config = read_config(workdir)
    if dtype is not None:
        config.dtype = dtype
    spec = data.spec_from_config(config.data)
    mesh = parallel.make_mesh(devices=jax.devices()[:1]) if jax.process_count() == 1 else None
    return load_experiment(workdir, Experiment.build(config, spec, mesh), step, weights=weights)


def _at_step(workdir: str, step: int | None) -> tuple[str, int | None]:
    """The workdir and the step of RUN@STEP."""
    folder, number = folder_and_step(workdir)
    if None not in (step, number) and step != number:
        raise UserError(f"{workdir} says step {number}, and step={step}; leave one of them out")
    return folder, step if number is None else number


def load_experiment(
    workdir: str, experiment: Experiment, step: int | None = None, *, weights: str | None = None
) -> TrainedRun:
    """As `load`, on the devices of an experiment already built."""
    choice = weights or experiment.config.eval.weights
    evaluated.check_choice(choice, experiment.method, experiment.groups, f"{workdir}: weights")
    prefixes = evaluated.prefixes(choice)
    section = experiment.config.checkpoint
    with checkpoint.Checkpointer(
        workdir, read_only=True, best_metric=section.best_metric, best_mode=section.best_mode
    ) as saves:
        if step is None and takes_best(experiment.config):
            step = saves.best_step()
        restored = saves.restore_parameters(
            step, prefixes=prefixes, sharding=parallel.replicated(experiment.mesh)
        )
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    parts, step = restored
    state, w = experiment.abstract_state, evaluated.from_parts(parts, choice)
    w = w._replace(
        params=_shaped_like(state.params, w.params), buffers=_shaped_like(state.buffers, w.buffers)
    )
    return TrainedRun(experiment.config, experiment, step, w, workdir)


def _shaped_like(template: PyTree, loaded: PyTree) -> PyTree:
    """`loaded` with the empty dicts of `template`, which a checkpoint does not store."""
    if not isinstance(template, dict):
        return loaded
    return {key: _shaped_like(part, loaded.get(key, {})) for key, part in template.items()}


def read_config(workdir: str) -> ConfigDict:
    """The config of a run.

    Raises:
      UserError: `workdir` is not one.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is not a run: it has no config.json")
    return config_lib.from_json(storage.read_text(path), str(path))
