"""Pieces that the files in `configs/` share."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, nearest


def check_variant(config: str, variant: str, variants: Sequence[str]) -> None:
    """Raises `UserError` unless `variant` is one of the config's."""
    if variant not in variants:
        raise UserError(
            f"{config} has no variant {variant!r}; variants: {', '.join(variants)}."
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


def small_shapes(config: ConfigDict, *, epochs: float = 60.0) -> None:
    """Data, encoder, views, optimizer and probes of `small_shapes` variants: colour on two cores.

    Args:
      epochs: length of the run.
    """
    digits(config, epochs=epochs)
    config.data.update(name="shapes", image_size=32)
    config.data.options = ConfigDict(dict(num_generated=2048))
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "color_jitter", "grayscale", "gaussian_blur"),
            random_resized_crop=dict(size=32, scale=(0.3, 1.0)),
            flip=dict(p=0.5),
            color_jitter=dict(strength=0.5, p=0.8),
            grayscale=dict(p=0.2),
            gaussian_blur=dict(kernel_size=3, p=0.5, sigma=(0.1, 2.0)),
        )
    )


def host_crops(
    config: ConfigDict,
    count: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    name: str = "tfds:imagenet2012",
) -> None:
    """The data of paper-scale ImageNet variants: crops of 224 pixels that the host cuts.

    Args:
      count: crops of each image.
      scale: smallest and largest area of a crop, as a fraction of the image's.
      name: the data set.
    """
    config.data.update(name=name, image_size=224, workers=16, prefetch=2)
    config.data.host_crops = ConfigDict({"global": dict(count=count, scale=scale)})


def pydoc(config: ConfigDict) -> None:
    """Data, length, optimizer and evaluation of a language model on Python's own documentation.

    Short rows and small batches: what counts on 0.4 million tokens is the number of updates.
    """
    config.batch_size = 32
    config.epochs = 12.0
    config.data.name = "pydoc"
    config.data.options = ConfigDict(dict(vocab_size=4096, sequence_length=64))
    config.model.dropout = 0.0
    config.optimizer.update(
        name="adamw",
        base_lr=2e-3,
        lr_scaling="none",
        schedule="linear",
        warmup_epochs=1.0,
        weight_decay=0.01,
        clip=dict(norm=1.0),
    )
    config.eval.update(every_epochs=3.0, online=False)
    config.checkpoint.update(every_epochs=3.0, best_metric="eval/held_out/accuracy")


def text_at_scale(config: ConfigDict) -> None:
    """Logging, evaluation and saves of runs of weeks; 1% of the documents is held out."""
    config.data.split, config.eval.test_split = "train[1%:]", "train[:1%]"
    config.eval.update(every_epochs=0.0, online=False, max_held_out_examples=4096)
    config.checkpoint.update(every_steps=5000, best_metric="eval/held_out/accuracy")
    config.log.every_steps = 100
