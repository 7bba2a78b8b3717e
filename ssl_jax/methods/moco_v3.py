"""MoCo v3: momentum contrast without a queue, for ResNets and ViTs (Chen et al. 2021).

    x -> two random views -> q_v = p(g(f(view v))), k_v = g'(f'(view v)), v = 1, 2
    loss = ctr(q_1, k_2) + ctr(q_2, k_1),    ctr(q, k) = 2 t InfoNCE(q, k; t)

f is a ResNet or ViT, g a projector, p a predictor. f' and g' are the moving averages of f and g,
with a decay that rises to 1 along a cosine. The negatives of a query are the keys of the other
images in the batch, over all devices; the batch is large.

The average is updated at the end of step t, with decay m(t). The released code updates it in step
t + 1, between queries and keys, with m(t + 1): from the same parameters, with the decay of the next
step. m changes by at most 1.7e-7 a step in the 300-epoch recipe.

There are two kinds of views, as in BYOL: the config's `views.overrides` sets the differences of the
second.

Each view has its own forward pass in both encoders, as in the released code: BatchNorm statistics
are those of one view of the whole batch, over all devices, and running statistics are updated twice
a step.

The patch projection of a ViT keeps its random initial values (Sec. 4.2: its gradient has spikes
that make training unstable). `frozen` selects such parameters: their gradient is exactly zero, and
they are in the parameter group "frozen", whose optimizer must not change them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import fraction, positive, regex
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Schedule, Weights, hyper_parameters
from ssl_jax.core.tree_paths import path_string
from ssl_jax.methods.base.two_views import TwoViews, check_batch_has_others, nets_and_views
from ssl_jax.models.heads import mlp_head
from ssl_jax.models.options import LayerCount
from ssl_jax.optim import cosine_ema

FROZEN = "frozen"  # the optimizer group of frozen parameters


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    temperature: Annotated[float, positive, "Temperature t."] = 1.0
    momentum: Annotated[float, fraction, "m, decay of the moving average at the first step."] = 0.99
    momentum_schedule: Annotated[
        Literal["cosine", "constant"], "m rises to 1 over the run, or is constant."
    ] = "cosine"
    projector_layers: Annotated[LayerCount, "Dense layers of g: 2 with a ResNet, 3 with a ViT."] = 2
    predictor_layers: Annotated[LayerCount, "Dense layers of p."] = 2
    predictor_output_norm: Annotated[
        Literal["none", "no_affine"],
        "Normalisation after the last layer of p: none (ResNet), or BatchNorm without scale and "
        "offset (ViT). The projector always ends with this BatchNorm.",
    ] = "none"
    hidden_dim: Annotated[int, positive, "Width of both heads' hidden layers."] = 4096
    output_dim: Annotated[int, positive, "Width of q and k."] = 256
    frozen: Annotated[
        str, regex,
        "Regex of the paths of parameters that keep their initial values, such as "
        '"encoder/patch_embed"; "": none.',
    ] = ""  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MoCoV3(TwoViews):
    title: ClassVar[str] = "MoCo v3"

    hyper: HyperParameters
    total_steps: int

    @property
    def ema_decay(self) -> float | Schedule:
        if self.hyper.momentum_schedule == "constant":
            return self.hyper.momentum
        return cosine_ema(self.hyper.momentum, self.total_steps)

    def ema_filter(self, path: str) -> bool:
        return not path.startswith("predictor/")

    def param_group(self, path: str) -> str:
        return FROZEN if self._is_frozen(path) else "default"

    def _is_frozen(self, path: str) -> bool:
        return bool(self.hyper.frozen) and re.search(self.hyper.frozen, path) is not None

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        def freeze(path: Any, leaf: Array) -> Array:
            return jax.lax.stop_gradient(leaf) if self._is_frozen(path_string(path)) else leaf

        query_key, *key_keys = jax.random.split(key, 3)
        w = w._replace(params=jax.tree_util.tree_map_with_path(freeze, w.params))
        encoded, updates = super().encode(w, views, key=query_key, step=step)
        k = []
        for view, key_key in enumerate(key_keys):
            _, k_view, _ = self.embed(w.ema, w.buffers, views[:, view], key=key_key)
            k.append(jax.lax.stop_gradient(k_view))
        return {**encoded, "k": jnp.stack(k, axis=1)}, updates  # k: (n, 2, output_dim)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        q, k = encoded["p"], encoded["k"]  # (n, 2, output_dim)
        t = self.hyper.temperature
        ctr_1, metrics_1 = losses.info_nce(q[:, 0], k[:, 1], temperature=t)
        ctr_2, metrics_2 = losses.info_nce(q[:, 1], k[:, 0], temperature=t)
        metrics = jax.tree.map(lambda a, b: (a + b) / 2, metrics_1, metrics_2)
        decay = self.ema_decay
        metrics["momentum"] = jnp.float32(decay(step) if callable(decay) else decay)
        outputs = {"h": encoded["h"], "z": encoded["z"]}
        return 2 * t * (ctr_1 + ctr_2), Aux(w.buffers, metrics, outputs)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, n = self.hyper, batch_size
        schedule = "to 1 along a cosine" if hyper.momentum_schedule == "cosine" else "constant"
        return [
            ("negatives", f"{n - 1:,} keys per query, {2 * n:,} queries per step"),
            ("momentum", f"{hyper.momentum:g} {schedule}"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> MoCoV3:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper, config)
    check_batch_has_others(config)
    sizes = hyper.hidden_dim, hyper.output_dim
    return MoCoV3(
        hyper=hyper,
        total_steps=length.total_steps,
        projector=mlp_head(
            hyper.projector_layers, *sizes, output_norm="no_affine", dtype=config.dtype
        ),
        predictor=mlp_head(
            hyper.predictor_layers,
            *sizes,
            output_norm=hyper.predictor_output_norm,
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec),
    )


def _check(hyper: HyperParameters, config: Any) -> None:
    frozen = dict(config.optimizer.groups).get(FROZEN)
    if bool(hyper.frozen) != (frozen is not None):
        raise UserError(
            f"method.frozen={hyper.frozen!r} and optimizer.groups.{FROZEN} belong together: set "
            f"method.frozen and optimizer.groups.{FROZEN}.base_lr=0, so that weight decay does not "
            "change frozen parameters, or neither"
        )
    if frozen is not None and dict(frozen).get("base_lr") != 0:
        raise UserError(
            f"optimizer.groups.{FROZEN}.base_lr must be 0: otherwise weight decay changes the "
            "parameters of method.frozen"
        )
