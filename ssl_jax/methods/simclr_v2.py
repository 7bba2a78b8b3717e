"""SimCLR v2: big self-supervised models are strong semi-supervised learners (Chen et al. 2020b).

    x -> two random views -> h = f(view) -> z = g(h) -> NT-Xent over the 2n views of the batch

SimCLR with a larger f (deeper and wider ResNets with selective kernels, see `models.resnet`) and
with three layers in g, the first of which belongs to the representation. Fine-tuning starts from

    selector 0: h        1: h1 = ReLU(BN(W1 h))        2: ReLU(BN(W2 h1))

With few labels selector 1 is best (section 4.2): `methods/supervised.py` fine-tunes from it with
`projector_layers`, and `methods/distill.py` is the next step. As in `methods/simclr.py` both views
have one forward pass together, so BatchNorm statistics are those of all 2n views, and the loss is
the mean over anchors, as defined in the papers: half of the value of the released code.

With `memory_size` a memory network, the moving average of f and g, provides additional negatives: a
queue of its outputs in the last steps, as in MoCo (section 2; a gain of about one point at batch
4096). The paper gives no details, and the released code does not include it. Here the memory
network gets the second view of each image, in a separate pass with its own batch statistics, and
the outputs of a step enter the queue after the loss.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax

from ssl_jax import losses
from ssl_jax.config.fields import fraction, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import (
    TwoViews,
    check_batch_has_others,
    check_queue,
    nets_and_views,
)
from ssl_jax.models import projection_head
from ssl_jax.models.classifier import first_layers
from ssl_jax.models.options import LayerCount


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    temperature: Annotated[float, positive, "Temperature t of NT-Xent."] = 0.1
    projector_layers: Annotated[LayerCount, "Dense layers of g."] = 3
    hidden_dim: Annotated[
        int | None, positive, "Width of its hidden layers; None: the width of h, as in the paper."
    ] = None
    output_dim: Annotated[int, positive, "Width of z."] = 128
    ft_proj_selector: Annotated[
        int, not_negative, 'The hidden layer of g that `features` returns as "ft"; 0: h.'
    ] = 1
    memory_size: Annotated[
        int, not_negative,
        "Embeddings in the memory, a multiple of the batch (paper: 64K); 0: no memory.",
    ] = 0  # fmt: skip
    memory_momentum: Annotated[
        float, fraction, "Decay of the memory network, a moving average."
    ] = 0.999


@dataclasses.dataclass(frozen=True)
class SimCLRv2(TwoViews):
    title: ClassVar[str] = "SimCLR v2"

    hyper: HyperParameters
    dtype: str

    @property
    def ema_decay(self) -> float | None:
        return self.hyper.memory_momentum if self.hyper.memory_size else None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        nets_key, memory_key = jax.random.split(key)
        params, buffers = super().init(nets_key, batch)
        hyper = self.hyper
        if hyper.memory_size:
            buffers |= losses.init_queue(memory_key, hyper.memory_size, hyper.output_dim)
        return params, buffers

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        key, memory_key = jax.random.split(key)
        x = views.reshape(-1, *views.shape[2:])  # (2n, h, w, c), views of an image side by side
        h, z, updated = self.embed(w.params, w.buffers, x, key=key)
        encoded = {"h": h[0::2], "z": z.reshape(-1, 2, z.shape[-1])}
        if self.hyper.memory_size:
            _, k, _ = self.embed(w.ema, w.buffers, views[:, 1], key=memory_key)
            encoded["k"] = jax.lax.stop_gradient(losses.unit_length(k))
        return encoded, {name: updated[name] for name in w.params}  # one entry for each net

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        buffers = w.buffers
        z = encoded["z"]  # (n, 2, output_dim)
        loss, metrics = losses.nt_xent(
            z[:, 0], z[:, 1], temperature=self.hyper.temperature, negatives=buffers.get("queue")
        )
        if self.hyper.memory_size:
            queue, pointer = buffers["queue"], buffers["pointer"]
            buffers = {**buffers, **losses.enqueue(queue, pointer, encoded["k"])}
        return loss, Aux(buffers, metrics, {"h": encoded["h"], "z": z})

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h`, `z`, and `ft` [n d], the layer from which fine-tuning starts."""
        features = super().features(w, batch)
        features["ft"] = features["h"]
        selector = self.hyper.ft_proj_selector
        if selector:
            hidden_dim = self.hyper.hidden_dim or features["h"].shape[1]
            layers = first_layers(selector, hidden_dim, dtype=self.dtype)
            normalized, _ = layers.apply(
                w.params["projector"], w.buffers["projector"], features["h"], train=False
            )
            features["ft"] = jax.nn.relu(normalized)
        return features

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        n = batch_size
        implementation, reason = losses.choose_implementation(n, self.hyper.output_dim)
        size = self.hyper.memory_size
        memory = f" and {size:,} from the memory, the oldest {size // n} steps old" * bool(size)
        return [
            ("loss", f"nt_xent, {implementation}: {reason}"),
            ("negatives", f"{2 * n - 2:,} views{memory} per anchor, {2 * n:,} anchors per step"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> SimCLRv2:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if hyper.ft_proj_selector >= hyper.projector_layers:
        raise UserError(
            f"method.ft_proj_selector is {hyper.ft_proj_selector}; use 0 for h, or the number of a "
            f"hidden layer below projector_layers={hyper.projector_layers}"
        )
    if not hyper.memory_size:
        check_batch_has_others(config)
    check_queue(hyper.memory_size, config.batch_size, "method.memory_size")
    return SimCLRv2(
        hyper=hyper,
        dtype=config.dtype,
        projector=projection_head(
            num_layers=hyper.projector_layers,
            hidden_dim=hyper.hidden_dim,
            output_dim=hyper.output_dim,
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec),
    )
