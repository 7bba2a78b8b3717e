"""Distillation: a student learns the predictions of a trained classifier on unlabelled images.

    l = -(1 - a) mean over labelled log P_S(y | x)
        - a mean over all sum_k P_T(k | x) log P_S(k | x),        P = softmax(logits / t)

This is the last step of SimCLR v2 (Chen et al. 2020, Eqs. 2 and 3): the teacher is a network that
was pretrained without labels and fine-tuned with few labels. The student has the same size
(self-distillation) or is smaller. Student and teacher get the same random view. The teacher is
frozen: its weights are buffers, and its BatchNorm runs in evaluation mode.

`config.init_from` is the run that trained the teacher: a `supervised` run without `freeze_encoder`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.config.fields import between, fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses.classification import cross_entropy, distillation
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.classifier import Classifier, make_classifier
from ssl_jax.models.encoder_layers import encoder_layers
from ssl_jax.models.options import MAX_LAYERS


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    teacher_projector_layers: Annotated[
        int, between(0, MAX_LAYERS), "projector_layers of the run that trained the teacher."
    ] = 0
    teacher_hidden_dim: Annotated[int | None, positive, "hidden_dim of that run."] = None
    distill_weight: Annotated[float, fraction, "a; 1 needs no labels."] = 1.0
    temperature: Annotated[float, positive, "Temperature t of teacher and student."] = 1.0


@dataclasses.dataclass(frozen=True)
class Distill(OneViewMethod):
    """Cross-entropy with the class probabilities of a frozen teacher.

    Attributes:
      hyper: the config's section.
      student, teacher: classifiers with the same classes.
      view: computes the inputs of both from batches.
      teacher_name: name of the teacher in the preflight.
    """

    title: ClassVar[str] = "distillation"
    learns_from_labels: ClassVar[bool] = True

    hyper: HyperParameters
    student: Classifier
    teacher: Classifier
    view: OneView
    teacher_name: str = "as the student"

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        student_key, teacher_key = jax.random.split(key)
        keys = jax.random.split(key, batch["index"].shape[0])
        views = jax.eval_shape(self.view.train, keys, batch)
        x = jnp.zeros((1, *views.shape[1:]), views.dtype)
        params, buffers = self.student.init(student_key, x)
        teacher, teacher_buffers = self.teacher.init(teacher_key, x)
        return params, {**buffers, "teacher": {"params": teacher, "buffers": teacher_buffers}}

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        return {"x": self.view.train(keys, batch), "label": batch["label"]}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        x, teacher = views["x"], w.buffers["teacher"]
        (h, logits), updates = self.student.apply(w.params, w.buffers, x, train=True, key=key)
        (_, targets), _ = self.teacher.apply(teacher["params"], teacher["buffers"], x, train=False)
        encoded = {"h": h, "logits": logits, "teacher_logits": targets, "label": views["label"]}
        return encoded, updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        hyper = self.hyper
        label_loss, metrics = cross_entropy(encoded["logits"], encoded["label"])
        distill_loss = distillation(
            encoded["logits"], encoded["teacher_logits"], temperature=hyper.temperature
        )
        # Skip terms of weight 0: 0 times an infinite loss is NaN.
        parts = ((hyper.distill_weight, distill_loss), (1 - hyper.distill_weight, label_loss))
        loss = sum(weight * part for weight, part in parts if weight)
        _, teacher_metrics = cross_entropy(encoded["teacher_logits"], encoded["label"])
        agreement = jnp.mean(
            encoded["logits"].argmax(axis=1) == encoded["teacher_logits"].argmax(axis=1)
        )
        metrics |= {
            "distill_loss": distill_loss,
            "label_loss": label_loss,
            "teacher_accuracy": teacher_metrics["accuracy"],
            "agreement": agreement,
        }
        return loss, Aux(w.buffers, metrics, {"h": encoded["h"]})

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """The student's `h` [n d] and `logits` [n c]."""
        x = self.view.evaluate(batch)
        (h, logits), _ = self.student.apply(w.params, w.buffers, x, train=False)
        return {"h": h, "logits": logits}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The layers of the student."""
        x = self.view.evaluate(batch)
        return encoder_layers(self.student.encoder, w.params["encoder"], w.buffers["encoder"], x)

    def nets(self) -> dict[str, Net]:
        """The nets of the student, and the encoder of the teacher, whose weights are buffers."""
        return {**self.student.nets(), "teacher": self.teacher.encoder}

    def origin(self, path: str) -> str | None:
        """The path in the teacher's run of the array at `path` in this state; None: not from it.

        Paths begin with "params/" or "buffers/". The student starts from random weights.
        """
        teacher = "buffers/teacher/"
        return path.removeprefix(teacher) if path.startswith(teacher) else None

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        a, t = self.hyper.distill_weight, self.hyper.temperature
        parts = [f"{a:g} x teacher's classes at temperature {t:g}"] if a else []
        parts += [f"{1 - a:g} x labels"] if a < 1 else []
        return [("loss", " + ".join(parts)), ("teacher", f"{self.teacher_name}, frozen")]


def make(config: Any, spec: DataSpec, length: Length) -> Distill:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if not spec.num_classes:
        raise UserError(
            f"{config.data.name} has no classes; set data.num_classes to the number of classes of "
            "the teacher"
        )
    if config.init_from is None:
        raise UserError("distillation has no teacher; set init_from to the run that trained one")
    view = make_one_view(config, spec)
    x = jax.ShapeDtypeStruct((1, *view.shape), config.dtype)
    common = dict(num_classes=spec.num_classes, dtype=config.dtype)
    student = teacher = make_encoder(**config.model, dtype=config.dtype)
    if "teacher" in config.nets:
        teacher = make_encoder(**config.nets.teacher, dtype=config.dtype, where="nets.teacher")
    return Distill(
        hyper=hyper,
        student=make_classifier(student, x, **common),
        teacher=make_classifier(
            teacher,
            x,
            projector_layers=hyper.teacher_projector_layers,
            hidden_dim=hyper.teacher_hidden_dim,
            **common,
        ),
        teacher_name=config.nets.teacher.name if "teacher" in config.nets else "as the student",
        view=view,
    )
