"""Base of iBOT and DINOv2: DINO, and the same loss for masked patches.

`ssl_jax.methods.ibot` has the equations. `MaskedDistillation` implements everything except
`objective`, which adds terms to `distill`.

A head with BatchNorm (`head_batch_norm`) normalises views with the statistics of the views, and
patches with those of the places of masked patches, padding included.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import each, fraction, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.families import MAIN
from ssl_jax.core.items import Images, Item
from ssl_jax.core.method import TEACHER, Array, Batch, DataSpec, PyTree, Weights
from ssl_jax.methods.base.layer_groups import layer_group
from ssl_jax.methods.base.self_distillation import (
    DistillationParameters,
    SelfDistillation,
    distillation_nets,
)
from ssl_jax.models import Net
from ssl_jax.models.patches import hide_patches, patch_grid
from ssl_jax.models.prototypes import prototype_matrix
from ssl_jax.models.vit import ViT
from ssl_jax.views import blocks

PATCH_EMBEDDING = "patch_embed"  # the optimizer group of the patch embedding
_MASKS = 3  # folded into an example's key
_PATCH_HEAD = 3  # folded into the key of `init`
Targets = Literal["centring", "sinkhorn"]


@dataclasses.dataclass(frozen=True)
class MaskedParameters(DistillationParameters):
    """Keys of `config.method` that iBOT and DINOv2 share."""

    patch_weight: Annotated[
        float, not_negative, "Weight of the masked patches' loss; 0: no masks, the loss of DINO."
    ] = 1.0
    mask_probability: Annotated[float, fraction, "Share of the large views that have a mask."] = 0.5
    mask_ratio: Annotated[
        tuple[float, float],
        each(fraction),
        "Smallest and largest share of the patches of a masked view that the mask hides.",
    ] = (0.1, 0.5)
    min_block: Annotated[int, positive, "Smallest area of a block of a mask, patches."] = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDistillation(SelfDistillation):
    """Student and teacher of views and of patches.

    Attributes:
      targets: how the teacher's outputs become targets: "centring" as in DINO, or "sinkhorn" with
        equal use of the prototypes over the global batch.
      patch_projector, patch_prototypes: the head of patches; None: that of views.
    """

    hyper: MaskedParameters
    targets: Targets = "centring"
    patch_projector: Net | None = None
    patch_prototypes: Net | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of a large view."""
        return patch_grid(self.families.shapes[MAIN][1:], self.encoder.module.patch_size)

    @property
    def max_masked(self) -> int:
        """The largest number of masked patches of a view."""
        return largest_mask(self.grid, self.hyper.mask_ratio)

    def param_group(self, path: str) -> str:
        net, _, path_in_net = path.partition("/")
        if net == "encoder":
            group = layer_group(path_in_net)
            return PATCH_EMBEDDING if path_in_net.startswith("patch_embed/") else group
        return super().param_group(path.removeprefix("patch_"))

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, buffers = super().init(key, batch)
        if self.patch_projector is not None:
            head_key, prototypes_key = jax.random.split(jax.random.fold_in(key, _PATCH_HEAD))
            token = jax.ShapeDtypeStruct((1, self.encoder.module.dim), jnp.float32)
            params["patch_projector"], statistics = self.patch_projector.init(head_key, token)
            if statistics:
                buffers["patch_projector"] = statistics
                copy = jax.tree.map(jnp.copy, statistics)  # each buffer is donated
                buffers[TEACHER] = {**buffers[TEACHER], "patch_projector": copy}
            u, _ = jax.eval_shape(
                lambda p, b, x: self.patch_projector.apply(p, b, x, train=False),
                params["patch_projector"], statistics, token,
            )  # fmt: skip
            params["patch_prototypes"], _ = self.patch_prototypes.init(prototypes_key, u)
        if self.targets == "sinkhorn":
            del buffers["centre"]
        elif self.hyper.patch_weight:
            count = (self.patch_prototypes or self.prototypes).module.count
            buffers["patch_centre"] = jnp.zeros(count, jnp.float32)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """The families of views and, unless `patch_weight` is 0, `masks`."""
        views = super().views(keys, batch, key=key, step=step)
        return {**views, **self.masks(keys)} if self.hyper.patch_weight else views

    def masks(self, keys: Array) -> dict[str, Array]:
        """Random masks of the large views of images with these keys [n].

        `mask` is bool [n g l] over all patches in row-major order. `places` int32 [n g m] are the
        indices of the masked patches, padded to the largest number of them, and `is_masked` bool
        [n g m] is False for padding.
        """
        large_views = self.families.shapes[MAIN][0]

        def image_masks(key: Array) -> dict[str, Array]:
            view_keys = jax.random.split(jax.random.fold_in(key, _MASKS), large_views)
            mask = jax.vmap(self._mask)(view_keys)  # (g, rows, columns)
            places, is_masked = jax.vmap(lambda m: blocks.padded_places(m, self.max_masked))(mask)
            mask = mask.reshape(large_views, -1)
            return {"mask": mask, "places": places, "is_masked": is_masked}

        return jax.vmap(image_masks)(keys)

    def _mask(self, key: Array) -> Array:
        hyper = self.hyper
        share_key, block_key = jax.random.split(key)
        chance, share = jax.random.uniform(share_key, (2,))
        low, high = hyper.mask_ratio
        rows, columns = self.grid
        count = jnp.floor(rows * columns * (low + share * (high - low))).astype(jnp.int32)
        count = jnp.where(chance < hyper.mask_probability, jnp.minimum(count, self.max_masked), 0)
        return blocks.mask_of_blocks(block_key, count, self.grid, smallest=hyper.min_block)

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Unit vectors of student and teacher, and features of the large views.

        `h` [n g d] of the student; `u` [n V d'] of the student and `t` [n g d'] of the teacher;
        with masks also `patch_u` and `patch_t` [n g*m d''] of masked patches, and `is_masked`
        [n g m].
        """
        del step
        masks = {MAIN: views["mask"]} if "mask" in views else None
        h, outputs, statistics = self.encode_families(
            w.params, w.buffers, views, key=key, masks=masks
        )
        teacher_h, teacher_outputs, teacher_statistics = self.encode_families(
            w.ema, w.buffers[TEACHER], {MAIN: views[MAIN]}, key=key, encoder=self.teacher_encoder
        )
        large_views, updates = teacher_h.shape[1], {"encoder": statistics}
        teacher = {"encoder": teacher_statistics}
        encoded = {
            "h": h[:, :large_views],
            "u": self._head("projector", w.params, w.buffers, h, updates),
            "t": self._head("projector", w.ema, w.buffers[TEACHER], teacher_h, teacher),
        }
        if masks:
            name = "projector" if self.patch_projector is None else "patch_projector"
            for side, params, buffers, out, changed in (
                ("patch_u", w.params, w.buffers, outputs, updates),
                ("patch_t", w.ema, w.buffers[TEACHER], teacher_outputs, teacher),
            ):
                tokens = jnp.take_along_axis(
                    out["patch_tokens"], views["places"][..., None], axis=2
                )  # (n, g, m, d)
                tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])
                encoded[side] = self._head(name, params, buffers, tokens, changed)
            encoded["is_masked"] = views["is_masked"]
        for name in encoded.keys() & {"t", "patch_t"}:
            encoded[name] = jax.lax.stop_gradient(encoded[name])
        teacher = {**w.buffers[TEACHER], **jax.lax.stop_gradient(teacher)}
        return encoded, {**updates, TEACHER: teacher}

    def _head(
        self, name: str, params: PyTree, buffers: PyTree, x: Array, changed: dict[str, PyTree]
    ) -> Array:
        """Unit vectors [n v d'] of tokens [n v d].

        Puts the running statistics of the head, if it has some, into `changed`. A head that views
        and patches share has those of the views, with which it is evaluated.
        """
        net = self.projector if name == "projector" else self.patch_projector
        statistics = buffers.get(name, {})
        z, statistics = net.apply(params[name], statistics, x.reshape(-1, x.shape[-1]), train=True)
        if statistics:
            changed.setdefault(name, statistics)
        return losses.unit_length(z).reshape(*x.shape[:2], -1)

    def patch_matrix(self, params: PyTree) -> Array:
        """The prototypes of patches in `params` or the moving average, [d'' k]."""
        name = "prototypes" if self.patch_prototypes is None else "patch_prototypes"
        return prototype_matrix(params[name])

    def distill(
        self, w: Weights, encoded: PyTree, step: Array
    ) -> tuple[Array, dict[str, Array], PyTree]:
        """The loss of views plus that of masked patches, its metrics, and the new buffers."""
        momentum, temperature = self.hyper.centre_momentum, self.teacher_temperature(step)
        buffers = dict(w.buffers)
        logits = self.teacher_logits(w, encoded["t"])  # (n, g, k)
        if self.targets == "sinkhorn":
            rows = logits.reshape(-1, logits.shape[-1])
            targets = losses.sinkhorn(rows, epsilon=temperature).reshape(logits.shape)
        else:
            centre = buffers["centre"]
            targets = losses.centred_targets(logits, centre, temperature=temperature)
            buffers["centre"] = losses.update_centre(centre, logits, momentum=momentum)
        loss, metrics = self.view_loss(w, encoded["u"], targets, step)
        if not self.hyper.patch_weight:
            return loss, metrics, buffers

        t = encoded["patch_t"].astype(self.dtype)
        is_masked = encoded["is_masked"]
        is_real = is_masked.reshape(t.shape[:2])
        matrix = self.patch_matrix(w.ema)
        if self.targets == "sinkhorn":
            offset = losses.sinkhorn_offset(t, matrix, is_real, epsilon=temperature)
        else:
            centre = buffers["patch_centre"]
            offset = -centre / temperature
            # The mean of the outputs W' t is W' times the mean of t.
            total = jnp.einsum("nmd,nm->d", t.astype(jnp.float32), is_real.astype(jnp.float32))
            mean = total / jnp.maximum(is_real.sum(), 1)
            logits = losses.prototype_logits(mean[None, None].astype(self.dtype), matrix)
            buffers["patch_centre"] = losses.update_centre(centre, logits, momentum=momentum)
        patch_loss, entropy = losses.masked_distillation(
            encoded["patch_u"].astype(self.dtype),
            self.patch_matrix(w.params),
            t,
            matrix,
            patch_weights(is_masked).reshape(t.shape[:2]),
            offset,
            temperature=self.hyper.student_temperature,
            teacher_temperature=temperature,
        )
        n, large_views, _ = is_masked.shape
        share = is_masked.sum() / (n * large_views * self.grid[0] * self.grid[1])
        metrics |= {"patch_loss": patch_loss, "patch_target_entropy": entropy, "masked": share}
        return loss + self.hyper.patch_weight * patch_loss, metrics, buffers

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        items = super().show(w, keys, batch)
        if not self.hyper.patch_weight:
            return items
        # The views of each family, (n, v, h, w, c).
        pixels = items["Augmented views"].pixels[tuple(self.families.shapes).index(MAIN)]
        n, large_views, *shape = pixels.shape
        mask = self.masks(keys)["mask"].reshape(n * large_views, -1)
        pixels = hide_patches(
            pixels.reshape(n * large_views, *shape), mask, self.encoder.module.patch_size
        )
        item = Images(
            jnp.clip(pixels, 0, 1).reshape(n, large_views, *shape),
            inputs=batch.get("image"),
            columns=tuple(f"{MAIN} {view + 1}" for view in range(large_views)),
            note="The large views as the student sees them: grey patches are masked. The teacher "
            "sees the whole views.",
        )
        return {**items, "Masked views": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, (rows, columns) = self.hyper, self.grid
        head = "the head of views" if self.patch_projector is None else "a head of their own"
        low, high = hyper.mask_ratio
        masks = (
            f"{hyper.mask_probability:.0%} of the large views, {low:.0%} to {high:.0%} of "
            f"{rows * columns} patches; {head}"
        )
        return [
            *super().preflight(batch_size),
            ("masks", masks if hyper.patch_weight else "none"),
        ]


def patch_weights(is_masked: Array) -> Array:
    """1 / (g c) for each masked patch, of a view with c masked patches: [n g m] to float32."""
    is_masked = is_masked.astype(jnp.float32)
    counts = jnp.maximum(is_masked.sum(axis=2, keepdims=True), 1)
    return is_masked / counts / is_masked.shape[1]


def masked_nets(config: Any, spec: DataSpec, hyper: MaskedParameters) -> dict[str, Any]:
    """The arguments of `MaskedDistillation` that follow from the config, except the first two.

    Raises:
      UserError: a section has a bad value, the encoder is not a ViT with class and mask token, or
        no patch is ever masked.
    """
    nets = distillation_nets(config, spec, hyper)
    module = nets["encoder"].module
    if not isinstance(module, ViT) or not module.mask_token or module.pool != "cls":
        raise UserError(
            f"method {config.method.name} needs a ViT with a class token and a mask token; set "
            "model.name to vit_..., model.pool='cls' and model.mask_token=True"
        )
    for name, (_, *shape) in nets["families"].shapes.items():
        grid = patch_grid(tuple(shape), module.patch_size)
        if name == MAIN and hyper.patch_weight:
            _check_masks(grid, hyper)
    return nets


def _check_masks(grid: tuple[int, int], hyper: MaskedParameters) -> None:
    low, high = hyper.mask_ratio
    if low > high:
        raise UserError(f"method.mask_ratio ({low}, {high}) is not (smallest, largest)")
    if not hyper.mask_probability or not largest_mask(grid, hyper.mask_ratio):
        raise UserError(
            f"method.mask_ratio ({low}, {high}) and mask_probability {hyper.mask_probability:g} "
            f"mask no patch of a grid of {grid[0]}x{grid[1]}; use higher ones, or "
            "method.patch_weight=0"
        )
    if hyper.min_block > largest_mask(grid, hyper.mask_ratio):
        raise UserError(
            f"method.min_block {hyper.min_block} is larger than the largest mask of a grid of "
            f"{grid[0]}x{grid[1]}, {largest_mask(grid, hyper.mask_ratio)} patches; use a smaller "
            "one, or a higher method.mask_ratio"
        )
    if min(grid) < 2:
        raise UserError(
            f"a grid of {grid[0]}x{grid[1]} patches has no block to mask; use smaller patches, or "
            "larger views"
        )


def largest_mask(grid: tuple[int, int], ratio: tuple[float, float]) -> int:
    """The largest number of masked patches of a grid (rows, columns)."""
    return int(grid[0] * grid[1] * ratio[1])
