"""Jigsaw puzzles (Noroozi & Favaro 2016), https://arxiv.org/abs/1603.09246

    ssl_jax train --config=jigsaw:VARIANT --workdir=runs/jigsaw

Variants:
  small_shapes  2048 generated shapes of 32x32, tiles of 8 pixels, 24 orders
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10       tiles of 8 pixels, 100 orders; not in the paper (tfds:cifar10 prepared)
  imagenet      tiles of 64 pixels, 1000 orders, 350,000 steps (tfds:imagenet2012)

Published (ImageNet, classifiers on conv1 to conv5): 54.7 52.8 49.7 45.3 34.6 (random 48.5 41.0 34.8
27.1 12.0). Share of solved puzzles and mean average precision of detection by the number of orders:
1000 71 and 53.2, 100 88 and 52.6, 10 97 and 49.2.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("small_shapes", "fashion", "cifar10", "imagenet")


def get_config(variant: str = "small_shapes") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("jigsaw", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="jigsaw", num_permutations=1000))
    {
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
    }[variant](config)
    return config


def _small_shapes(config: ConfigDict) -> None:
    """Crops of 60% and more. Tiles of the ground look alike: not every puzzle has one solution.

    Measured on train[80%:] after 40 epochs on the rest (one seed): 85.1% of the puzzles are solved,
    and kNN with h recognises 30.0% of the shapes, no more than with an untrained encoder (29.8%).
    """
    common.small_shapes(config)
    config.batch_size = 128
    config.views.ops = ("random_resized_crop", "flip")
    config.views.random_resized_crop.scale = (0.6, 1.0)
    config.method.update(
        num_permutations=24, tile_size=8, channel_jitter=1, code_dim=64, hidden_dims=(128,),
        dropout=0.0,
    )  # fmt: skip


def _cifar10(config: ConfigDict) -> None:
    """Fewer orders and smaller layers than on ImageNet."""
    common.cifar10(config, batch_size=128, epochs=200.0)
    config.model.update(name="resnet18", stem="cifar")
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.method.update(
        num_permutations=100, tile_size=8, channel_jitter=1, code_dim=256, hidden_dims=(1024,)
    )
    config.optimizer.update(
        name="sgd", base_lr=0.05, lr_scaling="none", weight_decay=5e-4, warmup_epochs=5.0
    )


def _imagenet(config: ConfigDict) -> None:
    """Tiles, net and optimizer of the paper and its released code.

    The code resizes the shorter side of an image to 256 pixels and cuts 255x255 at random; here the
    host cuts squares of 50% to 100% of the image's area and resizes them to 255.
    """
    common.imagenet(config, batch_size=256, epochs=None, crops=1)
    config.steps = 350_000
    config.data.image_size = 255
    config.data.host_crops = ConfigDict(
        {"global": dict(count=1, size=255, scale=(0.5, 1.0), ratio=(1.0, 1.0))}
    )
    config.model.update(
        name="alexnet", widths=(96, 256, 384, 384, 256), norm="lrn", groups=2, conv1_stride=2,
        conv1_padding=0,
    )  # fmt: skip
    config.views = ConfigDict(dict(ops=()))
    config.optimizer.update(
        name="sgd",
        base_lr=0.01,
        lr_scaling="none",
        schedule="step",
        milestones=(2 / 7, 4 / 7, 6 / 7),  # every 100,000 steps
        decay_factor=0.1,
        weight_decay=5e-4,
        warmup_epochs=0.0,
    )


def _fashion(config: ConfigDict) -> None:
    """The net of simclr:fashion on tiles of 8 pixels."""
    fashion.images(config, batch_size=128)
    config.views.ops = ("random_resized_crop", "flip")
    config.views.random_resized_crop.scale = (0.6, 1.0)
    config.method.update(
        num_permutations=24, tile_size=8, channel_jitter=0, grayscale=0.0, projection=0.0,
        code_dim=64, hidden_dims=(128,), dropout=0.0,
    )  # fmt: skip
