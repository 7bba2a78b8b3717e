"""Colorization (Zhang et al. 2016), https://arxiv.org/abs/1603.08511

    ssl_jax train --config=colorization:VARIANT --workdir=runs/colorization

Variants:
  small_shapes  2048 generated shapes of 32x32: a few minutes on two CPU cores
  cifar10       a quarter of the net's width; not in the paper (tfds:cifar10 prepared)
  imagenet      the released recipe: crops of 176, batch 40, 450,000 steps (tfds:imagenet2012)

Published: decoded images are taken for the real ones in 32.3% of the trials, and a linear probe of
an AlexNet trained in this way reaches 35.2% on ImageNet. Colours of generated shapes are random, so
that their lightness says little about them.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("small_shapes", "cifar10", "imagenet")


def get_config(variant: str = "small_shapes") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("colorization", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="colorization"))
    config.nets.decoder = ConfigDict(dict(name="color_decoder"))
    {"small_shapes": _small_shapes, "cifar10": _cifar10, "imagenet": _imagenet}[variant](config)
    return config


def _imagenet(config: ConfigDict) -> None:
    """The released solver: Adam, decay by 10 after 225,000 steps; random crops of 176, mirrored.

    Images are resized to 256 first. The released code resizes to 256x256 whatever the aspect; here
    the central square is kept.
    """
    config.batch_size = 40
    config.steps = 450_000
    config.dtype = "bfloat16"
    config.data.update(name="tfds:imagenet2012", image_size=256, workers=16, prefetch=2)
    area = (176 / 256) ** 2  # no resizing
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=176, scale=(area, area), ratio=(1.0, 1.0)),
            flip=dict(p=0.5),
        )
    )
    config.model.name = "colorization_net"
    config.optimizer.update(
        name="adamw",
        base_lr=3e-5,
        lr_scaling="none",
        schedule="step",
        milestones=(0.5,),
        warmup_epochs=0.0,
        weight_decay=1e-3,
        b2=0.99,
    )
    config.eval.update(test_split="validation", batch_size=1000, every_epochs=2.0)
    config.eval.linear.num_l2 = 6
    config.log.every_steps = 50
    config.checkpoint.every_steps = 5000


def _cifar10(config: ConfigDict) -> None:
    """Half the strides of the paper, so that a map of colours has half the image's side."""
    common.cifar10(config, batch_size=256, epochs=200.0)
    _crops(config)
    config.model.update(name="colorization_net", width=16, strides=(1, 2, 2, 1))
    config.nets.decoder.channels = 64
    config.optimizer.update(
        name="adamw", base_lr=1e-3, lr_scaling="none", weight_decay=1e-3, warmup_epochs=5.0, b2=0.99
    )


def _small_shapes(config: ConfigDict) -> None:
    """One convolution a block; a map of colours has 8x8 positions.

    Measured on test images (one seed): the most probable of 313 bins is nearest to the colour at
    33.2% of the positions, and the perplexity is 16.4. Shapes are not recognised: kNN 20.8 (chance
    16.7).
    """
    common.small_shapes(config, epochs=20.0)
    _crops(config)
    config.batch_size = 64
    config.eval.every_epochs = config.checkpoint.every_epochs = 10.0
    del config.model.widths
    config.model.update(name="colorization_net", width=8, depths=(1,) * 7)
    config.nets.decoder.update(channels=64, depth=1)
    config.optimizer.update(base_lr=1e-3, b2=0.99)


def _crops(config: ConfigDict) -> None:
    """Crops and flips of 32x32, which leave the colours as they are."""
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=32, scale=(0.3, 1.0)),
            flip=dict(p=0.5),
        )
    )
