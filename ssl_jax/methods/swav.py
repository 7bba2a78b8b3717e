"""SwAV: swapped assignments of views to prototypes (Caron et al. 2020).

    x -> a few large and many small views -> z = g(f(view)) / |.| -> scores s = W z
    q_i = Sinkhorn(s_i / epsilon)           codes of the large views i, no gradient      (Eq. 3)
    p_j = softmax(s_j / t)                  predictions of all views j                   (Eq. 2)
    loss = mean over pairs i != j of -sum_k q_ik log p_jk

f is the encoder, g an MLP with BatchNorm. The prototypes W are learned unit vectors, scaled to norm
1 after every update. The codes of a batch use all prototypes equally. Otherwise
(`sinkhorn_iterations=0`) one prototype gets all images and the encoder collapses; `prototypes_used`
shows this.

A batch that is small compared to the number of prototypes cannot use all of them. Then codes are
computed together with a queue of the embeddings of earlier batches, one queue for each large view
(Sec. 4.4: batch 256, queue 3,840).

As in the released code:
- The codes of a large view are computed from its n embeddings (and its queue) only.
- Sums over embeddings are over all devices, and so are BatchNorm's statistics.
- Each size of views has one forward pass of the encoder; g gets all views together.
- The optimizer group "prototypes" is W, so that `optimizer.groups.prototypes.frozen_steps` freezes
  W in the first epoch.
- Scores of the queue use the current prototypes.

Deviations:
- The queue fills from the first step on, not from `queue_start_epoch`, so it is used from the first
  step of that epoch.
- LARS scales by |g + wd w|, the released LARC by |g| + wd |w|; weight decay is 1e-6.
- The learning rate's warm-up reaches its peak one step later.
- Prototypes are initialised uniformly on the sphere; in the released code, with normalised uniform
  numbers from a cube.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import at_least, not_negative, positive
from ssl_jax.core.batch_axes import shards
from ssl_jax.core.families import MAIN
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.multi_crop import MultiCrop, check_prototypes, nets_and_families
from ssl_jax.methods.base.two_views import check_queue
from ssl_jax.models.heads import swav_head

PROTOTYPES = "prototypes"  # the entry of `params` and the optimizer group
_PROTOTYPES, _QUEUE = 2, 3  # folded into the key of `init`


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_prototypes: Annotated[int, at_least(2), "k, rows of W."] = 3000
    hidden_dim: Annotated[int, positive, "Width of the hidden layer of g."] = 2048
    output_dim: Annotated[int, positive, "Width of z."] = 128
    temperature: Annotated[float, positive, "t, of the predictions' softmax."] = 0.1
    epsilon: Annotated[float, positive, "Weight of the entropy of the codes."] = 0.05
    sinkhorn_iterations: Annotated[
        int,
        not_negative,
        "Iterations for the codes; 0: no equal use of the prototypes, which collapses.",
    ] = 3
    queue_length: Annotated[
        int, not_negative, "Embeddings of earlier batches for each large view; 0: no queue."
    ] = 0
    queue_start_epoch: Annotated[int, not_negative, "The first epoch that uses the queue."] = 15


@dataclasses.dataclass(frozen=True)
class SwAV(MultiCrop):
    title: ClassVar[str] = "SwAV"

    hyper: HyperParameters
    length: Length

    def param_group(self, path: str) -> str:
        return PROTOTYPES if path.startswith(f"{PROTOTYPES}/") else "default"

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, buffers = super().init(key, batch)
        hyper = self.hyper
        shape = hyper.num_prototypes, hyper.output_dim
        kernel = jax.random.normal(jax.random.fold_in(key, _PROTOTYPES), shape)
        params[PROTOTYPES] = {"kernel": losses.unit_length(kernel).T}
        if hyper.queue_length:
            views = self.families.shapes[MAIN][0]
            queue_key = jax.random.fold_in(key, _QUEUE)
            buffers |= losses.init_queue(queue_key, hyper.queue_length, views, hyper.output_dim)
        return params, buffers

    def constrain(self, params: PyTree) -> PyTree:
        kernel = losses.unit_length(params[PROTOTYPES]["kernel"].T).T
        return {**params, PROTOTYPES: {"kernel": kernel}}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the first view and `z` [n V d'] of all, the large ones first."""
        del step
        h, z, updates = self.embed(w.params, w.buffers, views, key=key)
        return {"h": h[:, 0], "z": losses.unit_length(z)}, updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        z, kernel = encoded["z"], w.params[PROTOTYPES]["kernel"]  # (n, V, d'), (d', k)
        large = jax.lax.stop_gradient(z[:, : self.families.shapes[MAIN][0]])
        codes = self.codes(w.buffers, large, kernel, step)  # (n, g, k)
        loss = losses.self_distillation(z, kernel, codes, temperature=self.hyper.temperature)
        metrics = losses.target_statistics(loss, codes)
        buffers = w.buffers
        if self.hyper.queue_length:
            buffers = {**buffers, **losses.enqueue(buffers["queue"], buffers["pointer"], large)}
        return loss, Aux(buffers, metrics, {"h": encoded["h"], "z": large})

    def codes(self, buffers: PyTree, z: Array, kernel: Array, step: Array) -> Array:
        """The codes q of the large views' embeddings [n g d'], float32 [n g k]."""
        hyper, (n, views) = self.hyper, z.shape[:2]
        mask = None
        if hyper.queue_length:
            z = jnp.concatenate([buffers["queue"], z])
            first_step = max(
                hyper.queue_start_epoch * self.length.steps_per_epoch, hyper.queue_length // n
            )
            mask = (jnp.arange(len(z)) >= hyper.queue_length) | (step >= first_step)
        scores = losses.prototype_logits(z, jax.lax.stop_gradient(kernel))
        view_codes = [
            losses.sinkhorn(
                scores[:, view],
                epsilon=hyper.epsilon,
                iterations=hyper.sinkhorn_iterations,
                mask=mask,
            )[-n:]
            for view in range(views)
        ]
        return jnp.stack(view_codes, axis=1)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        rows = -(-batch_size // shards())
        codes = f"of {batch_size:,} embeddings per view"
        if hyper.queue_length:
            codes += (
                f", and {hyper.queue_length:,} of the last {hyper.queue_length // batch_size} "
                f"batches from epoch {hyper.queue_start_epoch} on"
            )
        return [
            ("views", self.views_line()),
            ("codes", codes),
            (
                "prototypes",
                f"{hyper.num_prototypes:,} of {hyper.output_dim} numbers; scores of a view take "
                f"{rows * hyper.num_prototypes * 4 / 2**20:,.1f} MiB a device",
            ),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> SwAV:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if hyper.queue_length:
        check_queue(hyper.queue_length, config.batch_size, "method.queue_length")
    check_prototypes(hyper.num_prototypes, spec)
    return SwAV(
        hyper=hyper,
        length=length,
        projector=swav_head(hyper.hidden_dim, hyper.output_dim, dtype=config.dtype),
        **nets_and_families(config, spec),
    )
