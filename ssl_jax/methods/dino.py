"""DINO: self-distillation with no labels (Caron et al. 2021).

    student  u_j = g(f(view j)) / |.|,    p_j = softmax(W u_j / t)            of all views
    teacher  u'_i = g'(f'(view i)) / |.|,  q_i = softmax((W' u'_i - c) / t')  of the large views
    loss     mean over pairs i != j of H(q_i, p_j) = -sum_k q_ik log p_jk     (Eq. 3)
    centre   c <- m c + (1 - m) mean(W' u')                                   (Eq. 4)

f is the encoder, g an MLP, W the prototypes. The teacher f', g', W' is the moving average of the
student, with a decay that rises from .996 to 1 along half a cosine; it has no gradient. The teacher
is evaluated: `eval.weights = "ema"`.

Two opposite operations prevent collapse of the teacher's outputs. Centring subtracts the mean of
all images, so that no prototype gets all images. Sharpening, by the low temperature t', prevents a
uniform distribution over the prototypes. `target_entropy`, `kl` and `prototypes_used` show which
collapse occurs if one of them is too weak (Sec. 5.3).

As in the released code:
- W is weight-normalised (`ssl_jax.models.prototypes`). Prototypes have norm 1, or a learned norm
  (`unit_prototypes=False`).
- t' changes from epoch to epoch, not from step to step.
- The targets of a step use the centre before the step. Its mean is over all devices.
- Each size of views has one forward pass. In nets with BatchNorm, the student's statistics are
  those of all views of a size over all devices. The teacher has its own statistics, of the large
  views; it is evaluated with them.
- The teacher has no stochastic depth.
- The optimizer group "last_layer" is W, so that `optimizer.groups.last_layer.frozen_epochs` freezes
  W in the first epoch. Gradients are clipped by tensor (`optimizer.clip.per="tensor"`).

Deviations:
- The learning rate's warm-up reaches its peak one step later.
- The patch projection of ViTs is initialised with N(0, 0.02^2) and a bias of 0; the released code
  uses PyTorch's default uniform distribution, whose standard deviation is 0.021.
- The position of the class token and those of the patches are two tensors, so each is clipped by
  its own norm.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import at_least, fraction, not_negative, positive
from ssl_jax.core.batch_axes import shards
from ssl_jax.core.families import MAIN
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    TEACHER,
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Schedule,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.multi_crop import MultiCrop, nets_and_families
from ssl_jax.models import Net
from ssl_jax.models.heads import dino_head
from ssl_jax.models.options import LayerCount
from ssl_jax.models.prototypes import prototype_matrix, prototypes
from ssl_jax.optim import cosine_ema

LAST_LAYER = "last_layer"  # the optimizer group of the prototypes
_PROTOTYPES = 2  # folded into the key of `init`


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_prototypes: Annotated[int, at_least(2), "k, outputs of the last layer."] = 65536
    unit_prototypes: Annotated[
        bool, "Prototypes have norm 1; False: their norm is learned (norm_last_layer)."
    ] = True
    head_layers: Annotated[LayerCount, "Dense layers of g."] = 3
    hidden_dim: Annotated[int, positive, "Width of the hidden layers of g."] = 2048
    output_dim: Annotated[int, positive, "Width of u, the bottleneck before the last layer."] = 256
    head_batch_norm: Annotated[bool, "BatchNorm in the hidden layers of g."] = False
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


@dataclasses.dataclass(frozen=True)
class DINO(MultiCrop):
    title: ClassVar[str] = "DINO"

    hyper: HyperParameters
    length: Length
    prototypes: Net
    dtype: str = "float32"  # of the products of u and the prototypes

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

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the first view, `u` [n V d'] of the student, `t` [n 2 d'] of the teacher."""
        del step
        h, u, updates = self.embed(w.params, w.buffers, views, key=key)
        _, t, teacher = self.embed(
            w.ema, w.buffers[TEACHER], {MAIN: views[MAIN]}, key=key, encoder=self.teacher_encoder
        )
        encoded = {"h": h[:, 0], "u": losses.unit_length(u), "t": losses.unit_length(t)}
        encoded["t"] = jax.lax.stop_gradient(encoded["t"])
        return encoded, {**updates, TEACHER: jax.lax.stop_gradient(teacher)}

    @property
    def teacher_encoder(self) -> Net:
        """The encoder, without stochastic depth."""
        module = self.encoder.module
        return Net(module.clone(drop_path=0.0)) if hasattr(module, "drop_path") else self.encoder

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        hyper, centre = self.hyper, w.buffers["centre"]
        u, t = encoded["u"].astype(self.dtype), encoded["t"].astype(self.dtype)
        temperature = self.teacher_temperature(step)
        logits = losses.prototype_logits(t, prototype_matrix(w.ema["prototypes"]))  # (n, 2, k)
        targets = losses.centred_targets(logits, centre, temperature=temperature)
        loss = losses.self_distillation(
            u,
            prototype_matrix(w.params["prototypes"]),
            targets,
            temperature=hyper.student_temperature,
        )
        metrics = losses.target_statistics(loss, targets)
        metrics |= {"teacher_momentum": self.ema_decay(step), "teacher_temperature": temperature}
        centre = losses.update_centre(centre, logits, momentum=hyper.centre_momentum)
        outputs = {"h": encoded["h"], "z": encoded["u"][:, : t.shape[1]]}
        return loss, Aux({**w.buffers, "centre": centre}, metrics, outputs)

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


def make(config: Any, spec: DataSpec, length: Length) -> DINO:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    return DINO(
        hyper=hyper,
        length=length,
        projector=dino_head(
            hyper.head_layers,
            hyper.hidden_dim,
            hyper.output_dim,
            batch_norm=hyper.head_batch_norm,
            dtype=config.dtype,
        ),
        prototypes=prototypes(hyper.num_prototypes, learn_magnitude=not hyper.unit_prototypes),
        dtype=config.dtype,
        **nets_and_families(config, spec),
    )
