"""SimCLR v2 (Chen et al. 2020), https://arxiv.org/abs/2006.10029

    ssl_jax train --config=simclr_v2:VARIANT --workdir=runs/simclr_v2

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10       the released command: ResNet-18, 3x3 stem, no blur (needs tfds:cifar10 prepared)
  imagenet      the paper's recipe, ResNet-50 (needs tfds:imagenet2012)
  imagenet_sk   with selective kernels and ResNet-D, 35M parameters
  imagenet_big  ResNet-152, 3x wide, with selective kernels, 795M parameters

Fine-tuning with few labels is supervised:finetune_v2; distillation is the config distill.

Published (ImageNet, linear probe; then fine-tuned with 1% and 10% of the labels): ResNet-50 71.7,
57.9 and 68.4 top-1; with selective kernels 74.6, 64.5 and 72.1; ResNet-152, 3x wide, with selective
kernels 79.8, 74.9 and 80.1 (Table 1).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "fashion", "cifar10", "imagenet", "imagenet_sk", "imagenet_big")
SELECTIVE_KERNELS = dict(stem="deep", shortcut="pool", sk_ratio=0.0625)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("simclr_v2", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="simclr_v2",
            temperature=0.1,
            projector_layers=3,
            hidden_dim=placeholder(int),  # unset: the width of h
            output_dim=128,
            ft_proj_selector=1,  # the layer of the projection head in features, 0: h
            memory_size=0,  # more negatives, of a momentum network; the paper: 65536
            memory_momentum=0.999,
        )
    )
    {
        "digits": _digits,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "imagenet_sk": _imagenet_sk,
        "imagenet_big": _imagenet_big,
    }[variant](config)
    return config


def _imagenet(config: ConfigDict) -> None:
    """Section 3: 800 epochs, LARS at 0.1 sqrt(4096) = 6.4, warm-up over 5% of the epochs.

    Published: 71.7 top-1 (linear probe); 57.9 and 68.4 fine-tuned with 1% and 10% of the labels.
    """
    common.imagenet(config, batch_size=4096, epochs=800.0, eval_every=20.0, save_every=2.0)
    config.model.update(name="resnet50")
    config.views = common.simclr_views()
    config.optimizer.update(
        name="lars", base_lr=0.1, lr_scaling="sqrt", weight_decay=1e-4, warmup_epochs=40.0
    )


def _imagenet_sk(config: ConfigDict) -> None:
    """Published: 74.6 top-1 (linear probe); 64.5 and 72.1 with 1% and 10% of the labels."""
    _imagenet(config)
    config.model.update(**SELECTIVE_KERNELS)


def _imagenet_big(config: ConfigDict) -> None:
    """Published: 79.8 top-1 (linear probe); 74.9 and 80.1 with 1% and 10% of the labels."""
    _imagenet(config)
    config.model.update(name="resnet152", width=3.0, **SELECTIVE_KERNELS)


def _cifar10(config: ConfigDict) -> None:
    """The README of the released code: batch 512, learning rate 1.0 * 512 / 256, 1000 epochs."""
    common.cifar10(config, batch_size=512, epochs=1000.0, eval_every=50.0)
    config.method.temperature = 0.5
    config.model.update(name="resnet18", stem="cifar")
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "color_jitter", "grayscale"),
            random_resized_crop=dict(size=32, scale=(0.08, 1.0)),
            flip=dict(p=0.5),
            color_jitter=dict(strength=0.5, p=0.8),
            grayscale=dict(p=0.2),
        )
    )
    config.optimizer.update(
        name="lars", base_lr=1.0, lr_scaling="linear", weight_decay=1e-4, warmup_epochs=10.0
    )


def _digits(config: ConfigDict) -> None:
    """The views, the encoder and the optimizer of simclr:digits."""
    common.digits(config)
    config.method.update(temperature=0.5, output_dim=64)


def _fashion(config: ConfigDict) -> None:
    """The net and views of simclr:fashion."""
    fashion.images(config)
    config.method.update(temperature=0.2, output_dim=64)
