"""Loads a trained run and computes features with it.

    import ssl_jax

    encoder = ssl_jax.load("runs/demo")  # or "runs/demo@450", its checkpoint of step 450
    h = encoder.features(images)["h"]  # images uint8 [n h w c] -> float32 [n d]

    classifier = ssl_jax.load("runs/finetuned")
    logits = classifier.text_features(["one text", "another"])["logits"]  # float32 [n c]
    names = [classifier.class_names[i] for i in logits.argmax(axis=1)]

    writer = ssl_jax.load("runs/gpt")
    completions = writer.generate(["The list", "A string"], max_new_tokens=40, temperature=0)

The weights are those that the run evaluates (`eval.weights`), unless `weights` names others.
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

from ssl_jax import adapt, checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.checkpoint.choice import folder_and_step, takes_best
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.data.labelled.encoded import framed_texts
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.experiment import evaluated
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods.base.generation import generate_texts
from ssl_jax.methods.base.generative import Generative
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.text import TEXT
from ssl_jax.models.decoding import Sampling
from ssl_jax.views import recipe

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The method of a run with the weights of a checkpoint.

    Attributes:
      config: the config of the run.
      experiment: the method and its nets.
      step: the step of the checkpoint.
      weights: the weights to evaluate, on the devices. `ema` is None unless the moving average was
        selected.
      workdir: folder of the run.
      class_names: names of the classes by number; None if the data have no names.
    """

    config: ConfigDict
    experiment: Experiment
    step: int
    weights: Weights
    workdir: str = ""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.config.data.class_names

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the images that the encoder gets in evaluation."""
        image = self.experiment.spec.evaluated.batch(1)["image"]
        return jax.eval_shape(self.experiment.method.eval_view, image).shape[1:]

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) by channel of those images; None: they are in [0, 1]."""
        views = self.config.views.to_dict()
        # The first view alone, by whose recipe images are evaluated.
        changes = {str(view): change for view, change in views.get("overrides", {}).items()}
        views["overrides"] = {"0": changes["0"]} if "0" in changes else {}
        statistics = recipe.normalization(recipe.read_recipes(views, 1)[0])
        if statistics is None:
            return None
        channels = self.view_shape[-1]
        mean, std = (np.broadcast_to(statistics[name], channels) for name in ("mean", "std"))
        return tuple(mean.tolist()), tuple(std.tolist())

    def merged(self) -> TrainedRun:
        """The run without adapters (`config.adapt`), with weights that compute the same."""
        if self.config.adapt.name is None:
            return self
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.adapt = ConfigDict({"name": None})
        experiment = Experiment.build(config, self.experiment.spec, self.experiment.mesh)
        weights = adapt.merged(self.experiment.method, self.weights)
        return dataclasses.replace(self, config=config, experiment=experiment, weights=weights)

    def encode(self, batch: Any) -> dict[str, jax.Array]:
        """Features of a device batch: {"h": [n d], "z": [n d']}, float32."""
        return self.experiment.features(self.weights, batch)

    def features(self, images: np.ndarray, *, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Features of images in memory, preprocessed as the method's evaluation does.

        Args:
          images: uint8 [n h w c] (or [n h w] for one channel), c as in training.
          batch_size: number of images encoded at a time.

        Returns:
          `h` [n d] and, where there is a projection head, `z` [n d'], float32.

        Raises:
          UserError: the run encodes texts, or the images are not uint8 or have a wrong shape or
            number of channels.
        """
        images = np.asarray(images)
        if self.experiment.spec.modality != IMAGE.name:
            raise UserError(f"{self.workdir} encodes texts, not images; use text_features")
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
        """Features and predictions of texts in memory.

        Args:
          texts: the texts, or the first texts of pairs. A text that is too long is cut at its end.
          second: the second texts of pairs; None without pairs.
          batch_size: number of texts encoded at a time.

        Returns:
          `h` [n d] float32, and for a run trained on labels `logits` [n c], `prediction` [n],
          `tags` int32 [n l], or `start` and `end` [n l].

        Raises:
          UserError: the run encodes images or has no tokenizer, or the texts are not a non-empty
            list of strings.
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
        """The arrays of a batch with one row of tokens per text."""
        spec = self.experiment.spec
        if spec.modality != TEXT.name:
            raise UserError(f"{self.workdir} encodes images, not texts; use features")
        tokenizer = self._tokenizer()
        if not texts or (second is not None and len(second) != len(texts)):
            raise UserError(
                f"text_features needs at least one text, and as many second texts; got "
                f"{len(texts)} and {0 if second is None else len(second)}"
            )
        return framed_texts(tokenizer, spec.arrays["tokens"].shape[0], texts, second)

    def _tokenizer(self) -> Tokenizer:
        """The tokenizer of the run.

        Raises:
          UserError: it is missing or cannot be read.
        """
        path = epath.Path(self.workdir) / "tokenizer.json"
        if not path.exists():
            raise UserError(f"{self.workdir} has no tokenizer.json, which texts need")
        try:
            return Tokenizer.from_json(storage.read_text(path))
        except ValueError as error:
            raise UserError(f"{path} is not a tokenizer: {error}") from error

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[str]:
        """Continues texts with a language model, or answers them with an encoder-decoder.

        Args:
          prompts: beginnings of texts, none of them empty. Those of an encoder-decoder may have
            `<extra_id_0>`, `<extra_id_1>` and so on for missing spans.
          max_new_tokens: largest number of tokens of a completion.
          temperature: divides the logits; 0: the most likely token at every step.
          top_k: draw from the k most likely tokens; 0: from all.
          top_p: draw from the most likely tokens that have this probability together; 1: from all.
          stop: strings that end a completion, which are not part of it.
          seed: of the random numbers.
          batch_size: number of prompts at a time.

        Returns:
          The completions, without the prompts.

        Raises:
          UserError: the run is no language model of next tokens or has no tokenizer, a prompt is
            empty or too long, or an option is out of range.
        """
        method = self.experiment.method
        if not isinstance(method, Generative):
            raise UserError(
                f"{self.workdir} was trained by method {method.title}, which does not generate "
                "text; use a run of gpt or t5"
            )
        sampling = Sampling(max_new_tokens, float(temperature), top_k, float(top_p))
        return generate_texts(
            method,
            self.weights,
            self._tokenizer(),
            _listed(prompts, "prompts"),
            sampling=sampling,
            stop=_listed(stop, "stop"),
            seed=seed,
            batch_size=batch_size,
        )


def _listed(texts: Iterable[str], name: str) -> list[str]:
    """The texts of the argument `name` as a list.

    Raises:
      UserError: it is a single string, or contains objects that are not strings.
    """
    if isinstance(texts, str):
        raise UserError(f"{name} is a single string, {texts!r:.40}; use a list: [text]")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            is_pair = isinstance(text, (tuple, list))
            remedy = "pass the second texts of pairs as second=[...]" if is_pair else "use strings"
            raise UserError(f"{name}[{i}] is {text!r:.40}, not a text; {remedy}")
    return texts


def load(
    workdir: str,
    step: int | None = None,
    *,
    dtype: str | None = None,
    weights: str | None = None,
) -> TrainedRun:
    """Loads the encoder of a run.

    Args:
      workdir: folder of the run; "runs/x@450" selects the checkpoint of step 450.
      step: step of the checkpoint; default: the latest, or the best if the results of the run are
        of its best checkpoint.
      dtype: dtype of the activations; default: that of the run.
      weights: "params", "ema" (the method's moving average) or "polyak"; default: `eval.weights` of
        the run.

    Raises:
      UserError: the run or the step does not exist, or the run does not keep these weights.
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
        raise UserError(f"{workdir} selects step {number}, but step={step}; remove one of them")
    return folder, step if number is None else number


def load_experiment(
    workdir: str, experiment: Experiment, step: int | None = None, *, weights: str | None = None
) -> TrainedRun:
    """Like `load`, for an experiment that is already built, on its devices."""
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
      UserError: `workdir` is not the folder of a run.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is not a run: it has no config.json")
    return config_lib.from_json(storage.read_text(path), str(path))
