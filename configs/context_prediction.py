"""Context prediction (Doersch et al. 2015), https://arxiv.org/abs/1505.05192

    ssl_jax train --config=context_prediction:VARIANT --workdir=runs/context_prediction

Variants:
  small_shapes  2048 generated shapes of 32x32, patches of 8 pixels
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10       patches of 9 pixels with colour projection; not in the paper (tfds:cifar10 prepared)
  imagenet      patches of 96 pixels with colour dropping, CaffeNet (tfds:imagenet2012)

Published: 38 to 40% of the positions are right on ImageNet; the mean average precision of
detection on VOC 2007 is 46.3 with colour dropping and 45.7 with projection, 39.8 from scratch and
54.2 after supervised pretraining.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("small_shapes", "fashion", "cifar10", "imagenet")


def get_config(variant: str = "small_shapes") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("context_prediction", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="context_prediction"))
    {
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
    }[variant](config)
    return config


def _small_shapes(config: ConfigDict) -> None:
    """The whole image: patches of 8 with gaps of 2. A shape covers several patches.

    Measured on train[80%:] after 40 epochs on the rest (one seed): 42.6% of the positions are right
    (chance 12.5%); kNN recognises 23.7% of the shapes (untrained encoder 17.8%, pixels 16.6%).
    """
    common.small_shapes(config)
    config.batch_size = 128
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.method.update(
        patch_size=8, gap=2, jitter=1, color="project", downsample=0.0, code_dim=128,
        hidden_dims=(128, 128),
    )  # fmt: skip


def _cifar10(config: ConfigDict) -> None:
    """Small patches keep their resolution; projection leaves more of them than dropping."""
    common.cifar10(config, batch_size=128, epochs=200.0)
    config.model.update(name="resnet18", stem="cifar")
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.method.update(
        patch_size=9, gap=1, jitter=1, color="project", downsample=0.0, code_dim=512,
        hidden_dims=(512, 512),
    )  # fmt: skip
    config.optimizer.update(
        name="sgd", base_lr=0.05, lr_scaling="none", weight_decay=5e-4, warmup_epochs=5.0
    )


def _imagenet(config: ConfigDict) -> None:
    """Patches, net and defences of the paper.

    The paper resizes images to 150,000 to 450,000 pixels, of which the grid takes 400x400: a crop
    of 36% to 100% of the image. 57 images have 513 patches; the released batches have up to 512.
    The released rate is 1e-5 for the sum over the pairs of a batch, here 0.02 for their mean: a
    batch of 3x3 grids has about 2,000. The paper trained for four weeks on one GPU; 60 epochs are
    our choice.
    """
    common.imagenet(config, batch_size=57, epochs=60.0, crops=1)
    config.data.image_size = 400
    config.data.host_crops = ConfigDict(
        {"global": dict(count=1, size=400, scale=(0.36, 1.0), ratio=(1.0, 1.0))}
    )
    config.model.update(
        name="alexnet", widths=(96, 256, 384, 384, 256), norm="lrn_batch", conv1_padding=5
    )
    config.views = ConfigDict(dict(ops=()))
    config.optimizer.update(
        name="sgd", base_lr=0.02, lr_scaling="none", schedule="constant", weight_decay=0.0,
        warmup_epochs=0.0,
    )  # fmt: skip


def _fashion(config: ConfigDict) -> None:
    """The net of simclr:fashion on patches of 7 pixels."""
    fashion.images(config, batch_size=128)
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.method.update(
        patch_size=7, gap=2, jitter=1, color="keep", downsample=0.0, code_dim=128,
        hidden_dims=(128, 128),
    )  # fmt: skip
