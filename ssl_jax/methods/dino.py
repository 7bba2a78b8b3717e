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
from typing import Any, ClassVar

import jax

from ssl_jax import losses
from ssl_jax.core.families import MAIN
from ssl_jax.core.length import Length
from ssl_jax.core.method import TEACHER, Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.self_distillation import (
    DistillationParameters,
    SelfDistillation,
    distillation_nets,
)


@dataclasses.dataclass(frozen=True)
class HyperParameters(DistillationParameters):
    """The keys of `config.method`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(SelfDistillation):
    title: ClassVar[str] = "DINO"

    hyper: HyperParameters

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

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        centre, u, t = w.buffers["centre"], encoded["u"], encoded["t"]
        temperature = self.teacher_temperature(step)
        logits = self.teacher_logits(w, t)  # (n, 2, k)
        targets = losses.centred_targets(logits, centre, temperature=temperature)
        loss, metrics = self.view_loss(w, u, targets, step)
        centre = losses.update_centre(centre, logits, momentum=self.hyper.centre_momentum)
        outputs = {"h": encoded["h"], "z": u[:, : t.shape[1]]}
        return loss, Aux({**w.buffers, "centre": centre}, metrics, outputs)


def make(config: Any, spec: DataSpec, length: Length) -> DINO:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    return DINO(hyper=hyper, length=length, **distillation_nets(config, spec, hyper))
