"""MoCo v2 (Chen et al. 2020b), https://arxiv.org/abs/2003.04297

    ssl_jax train --config=moco_v2:VARIANT --workdir=runs/moco_v2

Variants:
  digits       8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  fashion      Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10      the released code's CIFAR demo: ResNet-18 with a 3x3 stem (tfds:cifar10 prepared)
  imagenet     the paper's recipe: ResNet-50, batch 256, SGD, 200 epochs (tfds:imagenet2012)
  imagenet800  as imagenet, for 800 epochs

Published (linear probe on ImageNet): 67.5 top-1 after 200 epochs, 71.1 after 800. The demo's kNN
accuracy on CIFAR-10 is 82.6.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, moco_v1

VARIANTS = ("digits", "fashion", "cifar10", "imagenet", "imagenet800")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("moco_v2", variant, VARIANTS)
    config = base_config()
    config.method = moco_v1.method(temperature=0.2, projector_layers=2)
    {
        "digits": moco_v1.digits,
        "fashion": moco_v1.fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "imagenet800": _imagenet800,
    }[variant](config)
    return config


def _imagenet(config: ConfigDict, *, epochs: float = 200.0) -> None:
    """Paper, Sec. 3: v1 with an MLP head, blur, weaker colours, a cosine schedule and t = 0.2.

    Crops are made on the host, the rest on the device.
    """
    common.imagenet(config, batch_size=256, epochs=epochs, scale=(0.2, 1.0), log_every=100)
    config.model.update(name="resnet50", kernel_init="he_fan_out")
    config.views = common.moco_v2_views()
    moco_v1.sgd(config, schedule="cosine")


def _imagenet800(config: ConfigDict) -> None:
    """The longer schedule of the paper."""
    _imagenet(config, epochs=800.0)


def _cifar10(config: ConfigDict) -> None:
    """The released demo: crops of at least 8%, no blur, and a linear head."""
    moco_v1.cifar10_demo(config)
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "color_jitter", "grayscale", "normalize"),
            random_resized_crop=dict(size=32, scale=(0.08, 1.0)),
            flip=dict(p=0.5),
            color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            grayscale=dict(p=0.2),
            normalize=common.CIFAR10_NORMALIZE,
        )
    )
