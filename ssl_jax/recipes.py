"""Pieces that the files in `configs/` share."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax.errors import UserError, nearest


def check_variant(file: str, variant: str, variants: Sequence[str]) -> None:
    """Raises `UserError` unless `variant` is one of the file's."""
    if variant not in variants:
        raise UserError(
            f"{file} has no variant {variant!r}; variants: {', '.join(variants)}."
            f"{nearest(variant, variants)}"
        )


def digits(config: ConfigDict, *, epochs: float = 120.0, noise_p: float = 1.0) -> None:
    """Data, encoder, views, optimizer and probes of every method's `digits` variant.

    Affine views of 16x16 with strong noise; no flip: a mirrored digit is another sign.

    Args:
      epochs: length of the run.
      noise_p: share of the views that have noise.
    """
    config.batch_size = 256
    config.epochs = epochs
    config.data.update(name="digits")
    config.model.update(name="convnet", widths=(16, 32, 64, 128))
    config.views = ConfigDict(
        dict(
            ops=("random_affine", "gaussian_noise"),
            random_affine=dict(
                size=16, degrees=15.0, translate=0.08, scale=(0.8, 1.25), shear=10.0
            ),
            gaussian_noise=dict(std=0.25, p=noise_p),
        )
    )
    config.optimizer.update(
        name="adamw", base_lr=3e-3, lr_scaling="none", weight_decay=1e-4, warmup_epochs=5.0
    )
    config.eval.update(every_epochs=30.0, batch_size=512, baselines=True)
    config.checkpoint.every_epochs = 30.0
