"""DINO (Caron et al. 2021), https://arxiv.org/abs/2104.14294

    ssl_jax train --config=dino:VARIANT --workdir=runs/dino

Variants:
  digits           8x8 handwritten digits that come with scikit-learn: two minutes on two CPU cores
  small_shapes     2048 generated shapes of 32x32
  fashion          Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10          ViT-Ti with patches of 4; not in the paper (tfds:cifar10 prepared)
  imagenet         the released code's defaults: ViT-S/16, batch 512, 100 epochs (tfds:imagenet2012)
  imagenet_vits16  the released ViT-S/16: batch 1024, 800 epochs
  imagenet_vitb16  the released ViT-B/16: batch 1024, 400 epochs
  imagenet_r50     the released ResNet-50: batch 4080, 800 epochs, LARS

Published (ImageNet; k nearest neighbours, linear probe): 69.3 and 74.0 with the defaults; of the
released models ViT-S/16 74.5 and 77.0, ViT-B/16 76.1 and 78.2, ResNet-50 67.5 and 75.3.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = (
    "digits",
    "small_shapes",
    "fashion",
    "cifar10",
    "imagenet",
    "imagenet_vits16",
    "imagenet_vitb16",
    "imagenet_r50",
)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("dino", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="dino"))
    config.eval.weights = "ema"  # the teacher
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "imagenet_vits16": _imagenet_vits16,
        "imagenet_vitb16": _imagenet_vitb16,
        "imagenet_r50": _imagenet_r50,
    }[variant](config)
    return config


def _imagenet(config: ConfigDict) -> None:
    """The released code's defaults on 8 GPUs."""
    common.dino_imagenet(config, 512, 100.0, large=(0.4, 1.0), small=(0.05, 0.4), count=8)
    common.dino_vit(config, "vit_s16", base_lr=5e-4, last_lr=1e-6, clip=3.0, frozen_epochs=1.0)


def _imagenet_vits16(config: ConfigDict) -> None:
    """The arguments that were released with the model: no clipping, prototypes of any length."""
    common.dino_imagenet(config, 1024, 800.0, large=(0.25, 1.0), small=(0.05, 0.25), count=10)
    config.dtype = "float32"
    config.method.update(
        unit_prototypes=False, teacher_temperature=0.07, temperature_warmup_epochs=30
    )
    common.dino_vit(config, "vit_s16", base_lr=5e-4, last_lr=1e-5, clip=0.0, frozen_epochs=1.0)


def _imagenet_vitb16(config: ConfigDict) -> None:
    """The arguments that were released with the model."""
    common.dino_imagenet(config, 1024, 400.0, large=(0.25, 1.0), small=(0.05, 0.25), count=10)
    config.dtype = "float32"
    config.method.update(teacher_temperature=0.07, temperature_warmup_epochs=50)
    common.dino_vit(config, "vit_b16", base_lr=7.5e-4, last_lr=2e-6, clip=0.3, frozen_epochs=3.0)


def _imagenet_r50(config: ConfigDict) -> None:
    """The arguments that were released with the model: 51 images on each of 80 GPUs.

    The head of the released checkpoint has two layers and 4096 hidden units, not the code's three
    layers and 2048.
    """
    common.dino_imagenet(config, 4080, 800.0, large=(0.14, 1.0), small=(0.05, 0.14), count=6)
    config.dtype = "float32"
    config.method.update(
        num_prototypes=60000,
        head_layers=2,
        hidden_dim=4096,
        head_batch_norm=True,
        teacher_temperature=0.07,
        temperature_warmup_epochs=50,
    )
    config.model.update(name="resnet50", kernel_init="he_fan_out")
    base_lr = 0.3
    config.optimizer.update(
        name="lars",
        base_lr=base_lr,
        lr_scaling="linear",
        final_lr_factor=0.0048 / (base_lr * config.batch_size / 256),
        weight_decay=1e-6,
        warmup_epochs=10.0,
        momentum_order="lr_outside",
        groups=dict(last_layer=dict(frozen_epochs=1.0)),
    )


def _cifar10(config: ConfigDict) -> None:
    """ViT-Ti for images of 32x32; not in the paper."""
    common.dino_cifar10(config)
    config.method.num_prototypes = 4096


def _digits(config: ConfigDict) -> None:
    """Affine views: large ones of 16x16, and small ones of 8x8 that enlarge a part of the digit.

    Measured on train[80%:] after training on the rest (one seed): 74.3 with one label a class (raw
    pixels 65.5, untrained encoder 56.8), 96.5 with 20 nearest neighbours.
    """
    common.digits_multi_crop(config)
    _small_net(config)


def _small_shapes(config: ConfigDict) -> None:
    """Crops of 32x32 and of 16x16. Its scores were not measured."""
    common.small_shapes_multi_crop(config)
    _small_net(config)


def _small_net(config: ConfigDict) -> None:
    """Head and optimizer for a small conv net: BatchNorm in the head, as with ResNet-50.

    The batch is small because a teacher needs many updates to leave its random start. On digits,
    batches of 256 gave 57.9 after 40 epochs, and a decay of 0.9 instead of 0.97 cost 15 points.
    """
    config.batch_size = 64
    config.method.update(
        num_prototypes=128,
        hidden_dim=256,
        output_dim=64,
        head_batch_norm=True,
        teacher_momentum=0.98,
    )
    config.optimizer.update(
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip=dict(norm=3.0, per="tensor"),
        groups=dict(last_layer=dict(frozen_epochs=1.0)),
    )


def _fashion(config: ConfigDict) -> None:
    """The net of simclr:fashion, and two small crops of 14x14; batches of 64, as on digits."""
    fashion.multi_crop(config, epochs=6.0)
    _small_net(config)
