"""SimCLR v2: big self-supervised models are strong semi-supervised learners (Chen et al. 2020b).

    x -> two random views -> h = f(view) -> z = g(h) -> NT-Xent over the 2n views of the batch

SimCLR with a bigger f (deeper and wider ResNets with selective kernels, see `models.resnet`) and a
g of three layers, of which the first belongs to the representation: fine-tuning starts from

    selector 0: h        1: ReLU(BN(W1 h))        2: ReLU(BN(W2 of that))

Few labels are best fine-tuned from selector 1 (section 4.2): `methods/supervised.py` does it with
`projector_layers`, and `methods/distill.py` is the step after that. As in `methods/simclr.py` both
views go through one forward pass, so BatchNorm statistics are those of all 2n views, and the loss
is the mean over anchors that the papers define, half of what the released code returns.

The paper's memory of a momentum network (its section 2; a gain of about one point) is left out, as
it is from the released code.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax

from ssl_jax import losses
from ssl_jax.errors import UserError
from ssl_jax.method import Array, Aux, Batch, DataSpec, PyTree, hyper_parameters
from ssl_jax.models import projection_head
from ssl_jax.models.classifier import first_layers
from ssl_jax.two_views import TwoViews, nets_and_views


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    temperature: t of NT-Xent.
    projector_layers: dense layers of g.
    hidden_dim: width of its hidden layers; None is the width of h, as in the paper.
    output_dim: width of z.
    ft_proj_selector: the hidden layer of g that `features` returns as "ft"; 0 is h.
    """

    temperature: float = 0.1
    projector_layers: int = 3
    hidden_dim: int | None = None
    output_dim: int = 128
    ft_proj_selector: int = 1


@dataclasses.dataclass(frozen=True)
class SimCLRv2(TwoViews):
    title: ClassVar[str] = "SimCLR v2"

    hyper: HyperParameters
    dtype: str

    def encode(
        self,
        params: PyTree,
        buffers: PyTree,
        views: Array,
        *,
        ema_params: PyTree | None,
        key: Array,
    ) -> tuple[PyTree, PyTree]:
        del ema_params
        x = views.reshape(-1, *views.shape[2:])  # (2n, h, w, c), views of an image side by side
        h, z, updates = self.embed(params, buffers, x, key=key)
        return {"h": h[0::2], "z": z.reshape(-1, 2, z.shape[-1])}, updates

    def objective(
        self, params: PyTree, buffers: PyTree, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del params, key, step
        z = encoded["z"]  # (n, 2, output_dim)
        loss, metrics = losses.nt_xent(z[:, 0], z[:, 1], temperature=self.hyper.temperature)
        return loss, Aux(buffers, metrics, encoded)

    def features(self, params: PyTree, buffers: PyTree, batch: Batch) -> dict[str, Array]:
        """`h`, `z`, and `ft` [n d], where fine-tuning starts."""
        features = super().features(params, buffers, batch)
        features["ft"] = features["h"]
        selector = self.hyper.ft_proj_selector
        if selector:
            hidden_dim = self.hyper.hidden_dim or features["h"].shape[1]
            layers = first_layers(selector, hidden_dim, dtype=self.dtype)
            normed, _ = layers.apply(
                params["projector"], buffers["projector"], features["h"], train=False
            )
            features["ft"] = jax.nn.relu(normed)
        return features

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        n = batch_size
        how, why = losses.choose_implementation(n, self.hyper.output_dim)
        return [
            ("loss", f"nt_xent, {how}: {why}"),
            ("negatives", f"{2 * n - 2:,} views an anchor, {2 * n:,} anchors a step"),
        ]


def make(config: Any, spec: DataSpec, total_steps: int) -> SimCLRv2:
    """Builds the method from the config's sections method, model and views."""
    del total_steps
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if not hyper.temperature > 0:
        raise UserError(f"method.temperature is {hyper.temperature}; it has to be positive")
    if not 0 <= hyper.ft_proj_selector < hyper.projector_layers:
        raise UserError(
            f"method.ft_proj_selector is {hyper.ft_proj_selector}; use 0 for h, or the number of a "
            f"hidden layer below projector_layers={hyper.projector_layers}"
        )
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
