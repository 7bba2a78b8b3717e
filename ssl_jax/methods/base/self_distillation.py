"""Base of DINO, iBOT and DINOv2: a student predicts the prototypes of its moving average.

`ssl_jax.methods.dino` has the equations. `SelfDistillation` implements the nets, the schedules and
the loss of whole views; the methods implement `encode` and `objective`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import at_least, fraction, not_negative, positive
from ssl_jax.core.batch_axes import shards
from ssl_jax.core.length import Length
from ssl_jax.core.method import TEACHER, Array, Batch, DataSpec, PyTree, Schedule, Weights
from ssl_jax.methods.base.multi_crop import MultiCrop, check_prototypes, nets_and_families
from ssl_jax.models import Net
from ssl_jax.models.heads import dino_head
from ssl_jax.models.options import LayerCount
from ssl_jax.models.prototypes import prototype_matrix, prototypes
from ssl_jax.optim import cosine_ema

LAST_LAYER = "last_layer"  # the optimizer group of the prototypes
_PROTOTYPES = 2  # folded into the key of `init`


@dataclasses.dataclass(frozen=True)
class DistillationParameters:
    """Keys of `config.method` that the methods share."""

    num_prototypes: Annotated[int, at_least(2), "k, outputs of the last layer."] = 65536
    unit_prototypes: Annotated[
        bool, "Prototypes have norm 1; False: their norm is learned (norm_last_layer)."
    ] = True
    head_layers: Annotated[LayerCount, "Dense layers of g."] = 3
    head_batch_norm: Annotated[bool, "BatchNorm in the hidden layers of g."] = False
    hidden_dim: Annotated[int, positive, "Width of the hidden layers of g."] = 2048
    output_dim: Annotated[int, positive, "Width of u, the bottleneck before the last layer."] = 256
    student_temperature: Annotated[float, positive, "t, of the student's softmax."] = 0.1
    first_teacher_temperature: Annotated[float, positive, "t' in the first epoch."] = 0.04
    teacher_temperature: Annotated[float, positive, "t' after its warm-up."] = 0.04
    temperature_warmup_epochs: Annotated[
        int, not_negative, "Epochs in which t' changes linearly from the first to the last value."
    ] = 0
    centre_momentum: Annotated[
        float, fraction, "m, of the centre; 1 keeps the centre at 0: no centring."
    ] = 0.9
    teacher_momentum: Annotated[
        float, fraction, "The teacher's decay at the first step; it rises to 1 along half a cosine."
    ] = 0.996


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfDistillation(MultiCrop):
    """Student and teacher.

    Attributes:
      hyper: the config's section.
      length: of the run.
      prototypes: the last layer, W.
      dtype: of the products of u and the prototypes.
    """

    hyper: DistillationParameters
    length: Length
    prototypes: Net
    dtype: str = "float32"

    @property
    def ema_decay(self) -> Schedule:
        return cosine_ema(self.hyper.teacher_momentum, self.length.total_steps)

    def teacher_temperature(self, step: Array) -> Array:
        """t' at a step, float32 []."""
        hyper, last = self.hyper, max(self.hyper.temperature_warmup_epochs - 1, 1)
        epoch = step // self.length.steps_per_epoch
        rise = (hyper.teacher_temperature - hyper.first_teacher_temperature) / last
        warmup_value = hyper.first_teacher_temperature + rise * epoch
        done = epoch >= hyper.temperature_warmup_epochs
        return jnp.where(done, hyper.teacher_temperature, warmup_value).astype(jnp.float32)

    def param_group(self, path: str) -> str:
        return LAST_LAYER if path.startswith("prototypes/") else "default"

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, buffers = super().init(key, batch)
        u = jax.ShapeDtypeStruct((1, self.hyper.output_dim), jnp.float32)
        params["prototypes"], _ = self.prototypes.init(jax.random.fold_in(key, _PROTOTYPES), u)
        buffers[TEACHER] = jax.tree.map(jnp.copy, buffers)  # each buffer is donated
        buffers["centre"] = jnp.zeros(self.hyper.num_prototypes, jnp.float32)
        return params, buffers

    @property
    def teacher_encoder(self) -> Net:
        """The encoder, without stochastic depth."""
        module = self.encoder.module
        return Net(module.clone(drop_path=0.0)) if hasattr(module, "drop_path") else self.encoder

    def teacher_logits(self, w: Weights, t: Array) -> Array:
        """The teacher's outputs W' t of its unit vectors [n g d'], float32 [n g k]."""
        return losses.prototype_logits(t.astype(self.dtype), prototype_matrix(w.ema["prototypes"]))

    def view_loss(
        self, w: Weights, u: Array, targets: Array, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of whole views and its metrics.

        Args:
          w: the state.
          u: the student's unit vectors of all views, [n V d'].
          targets: q of the large views, [n g k].
          step: number of updates done.
        """
        loss = losses.self_distillation(
            u.astype(self.dtype),
            prototype_matrix(w.params["prototypes"]),
            targets,
            temperature=self.hyper.student_temperature,
        )
        metrics = losses.target_statistics(loss, targets)
        metrics |= {
            "teacher_momentum": self.ema_decay(step),
            "teacher_temperature": self.teacher_temperature(step),
        }
        return loss, metrics

    def origin(self, path: str) -> str:
        """The teacher starts as a copy of the student, with its batch statistics."""
        return path.replace(f"buffers/{TEACHER}/", "buffers/", 1)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        rows = -(-batch_size // shards())
        first, last = hyper.first_teacher_temperature, hyper.teacher_temperature
        warmup = hyper.temperature_warmup_epochs
        temperature = f"{last:g}" if not warmup else f"{first:g} to {last:g} in {warmup} epochs"
        return [
            ("views", self.views_line()),
            (
                "teacher",
                f"moving average, decay {hyper.teacher_momentum:g} to 1 over "
                f"{self.length.total_steps:,} steps; temperature {temperature}",
            ),
            (
                "prototypes",
                f"{hyper.num_prototypes:,} of {hyper.output_dim} numbers; outputs of a view take "
                f"{rows * hyper.num_prototypes * 4 / 2**20:,.1f} MiB a device",
            ),
        ]


def distillation_nets(config: Any, spec: DataSpec, hyper: DistillationParameters) -> dict[str, Any]:
    """The arguments of `SelfDistillation` that follow from the config, except the first two.

    Args:
      config: the whole config.
      spec: the data.
      hyper: its section `method`.

    Raises:
      UserError: a section has a bad value, or there are more prototypes than examples.
    """
    check_prototypes(hyper.num_prototypes, spec)
    return dict(
        projector=make_head(config, hyper, hyper.output_dim),
        prototypes=make_prototypes(hyper, hyper.num_prototypes),
        dtype=config.dtype,
        **nets_and_families(config, spec),
    )


def make_head(config: Any, hyper: DistillationParameters, output_dim: int) -> Net:
    """g, whose outputs have width `output_dim`."""
    return dino_head(
        hyper.head_layers,
        hyper.hidden_dim,
        output_dim,
        batch_norm=hyper.head_batch_norm,
        dtype=config.dtype,
    )


def make_prototypes(hyper: DistillationParameters, count: int) -> Net:
    """W, for `count` prototypes."""
    return prototypes(count, learn_magnitude=not hyper.unit_prototypes)
