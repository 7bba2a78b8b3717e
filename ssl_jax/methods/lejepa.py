"""LeJEPA: views agree and embeddings are Gaussian (Balestriero & LeCun 2025).

    x -> a few large and many small views -> z = g(f(view))
    loss = (1 - l) mean |z - c|^2 / d  +  l mean over views of SIGReg(z)

f is the encoder, g an MLP with BatchNorm, and c the mean of an image's large views. There is no
teacher, no stop-gradient, no predictor, and no schedule except that of the learning rate. See
`losses.isotropy` for SIGReg. Its sums are over the global batch, and its slices are the same on
every device.

Released codes differ in c. In the authors' minimal script all views are large, and c is their mean
(`large_views=4` without small views). Here and in other codes c is the mean of the large views, and
small views are compared with it too.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import at_least, fraction, positive
from ssl_jax.core.families import MAIN
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.multi_crop import MultiCrop, nets_and_families
from ssl_jax.methods.base.two_views import check_batch_has_others
from ssl_jax.models.heads import mlp_head


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    sigreg: Annotated[float, fraction, "l, the share of SIGReg in the loss."] = 0.05
    num_slices: Annotated[int, positive, "Random directions of SIGReg."] = 1024
    num_points: Annotated[int, at_least(2), "Points of its integral, from 0 to 3."] = 17
    large_views: Annotated[int, positive, "Views of the main family, whose mean is c."] = 2
    hidden_dim: Annotated[int, positive, "Width of the two hidden layers of g."] = 2048
    output_dim: Annotated[int, positive, "Width of z."] = 64


@dataclasses.dataclass(frozen=True)
class LeJEPA(MultiCrop):
    title: ClassVar[str] = "LeJEPA"

    hyper: HyperParameters

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the first view and `z` [n V d'] of all, the large ones first."""
        del step
        h, z, updates = self.embed(w.params, w.buffers, views, key=key)
        return {"h": h[:, 0], "z": z}, updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        hyper, z = self.hyper, encoded["z"]  # (n, V, d')
        large = self.families.shapes[MAIN][0]
        distance = losses.invariance(z, large=large)
        statistics = [
            losses.sigreg(
                z[:, view], key=key, num_slices=hyper.num_slices, num_points=hyper.num_points
            )
            for view in range(z.shape[1])
        ]
        gaussian = jnp.mean(jnp.stack(statistics))
        loss = (1 - hyper.sigreg) * distance + hyper.sigreg * gaussian
        metrics = {"invariance": distance, "sigreg": gaussian}
        outputs = {"h": encoded["h"], "z": jax.lax.stop_gradient(z[:, :large])}
        return loss, Aux(w.buffers, metrics, outputs)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        return [
            ("views", self.views_line()),
            (
                "loss",
                f"invariance, and SIGReg of {hyper.num_slices:,} slices over {batch_size:,} images "
                f"with a share of {hyper.sigreg:g}",
            ),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> LeJEPA:
    """Builds the method from the config's sections method, model and views."""
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_batch_has_others(config)
    return LeJEPA(
        hyper=hyper,
        projector=mlp_head(
            3,
            hyper.hidden_dim,
            hyper.output_dim,
            hidden_bias=True,
            output_bias=True,
            dtype=config.dtype,
        ),
        **nets_and_families(config, spec, num_views=hyper.large_views),
    )
