"""DINOv2 (Oquab et al. 2023), https://arxiv.org/abs/2304.07193

    ssl_jax train --config=dinov2:VARIANT --workdir=runs/dinov2

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: ten minutes of one CPU core
  small_shapes  2048 generated shapes of 32x32
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10       ViT-Ti with patches of 4; not in the paper (tfds:cifar10 prepared)
  imagenet      the released default: ViT-L/16, batch 2048, 125,000 steps (tfds:imagenet2012)
  vitl14        the released ViT-L/14 from scratch: batch 3072, 625,000 steps
  vitg14        the released ViT-g/14: batch 3072, 625,000 steps

The published nets were trained on LVD-142M, which is not public; `vitl14` and `vitg14` name
ImageNet, so set data.name to a larger set. Published (ImageNet, linear probe): ViT-L/14 86.3 and
ViT-g/14 86.5; the ViT-L is distilled from the ViT-g.

An "epoch" of the released code is 1250 steps. The temperature of the teacher changes from epoch to
epoch of the data, over as many steps.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "small_shapes", "fashion", "cifar10", "imagenet", "vitl14", "vitg14")
_EPOCH = 1250  # steps that the released code calls an epoch


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("dinov2", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="dinov2"))
    config.eval.weights = "ema"  # the teacher
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "vitl14": _vitl14,
        "vitg14": _vitg14,
    }[variant](config)
    return config


def _imagenet(config: ConfigDict) -> None:
    """`ssl_default_config.yaml` on 32 GPUs: a shared head, centring, layer-wise rates."""
    _photos(config, 2048, epochs=100, size=96)
    config.method.update(teacher_momentum=0.992, temperature_warmup_epochs=60, koleo_chunk=64)
    _vit(config, "vit_l16", base_lr=4e-3, warmup=10, weight_decay_end=0.4)
    config.model.drop_path = 0.3
    config.optimizer.groups.layerwise = dict(decay=0.9)


def _vitl14(config: ConfigDict) -> None:
    """`vitl14.yaml`: 32 images on each of 96 GPUs."""
    _large(config, "vit_l14", chunk=32)


def _vitg14(config: ConfigDict) -> None:
    """`vitg14.yaml`: 12 images on each of 256 GPUs."""
    _large(config, "vit_g14", chunk=12)


def _large(config: ConfigDict, name: str, *, chunk: int) -> None:
    """Separate heads of 131,072 prototypes, Sinkhorn's algorithm, no layer-wise rates."""
    _photos(config, 3072, epochs=500, size=98)
    config.method.update(
        targets="sinkhorn",
        separate_heads=True,
        num_prototypes=131072,
        output_dim=384,
        num_patch_prototypes=131072,
        patch_output_dim=256,
        teacher_momentum=0.994,
        temperature_warmup_epochs=90,
        koleo_chunk=chunk,
    )
    _vit(config, name, base_lr=2e-4, warmup=80, weight_decay_end=0.2)
    config.model.update(drop_path=0.4, feed_forward="swiglu")


def _photos(config: ConfigDict, batch_size: int, *, epochs: int, size: int) -> None:
    """Data, views and length of the recipes.

    Args:
      batch_size: global.
      epochs: length of the run, in `_EPOCH` steps.
      size: side of the small crops, pixels.
    """
    common.dino_imagenet(
        config, batch_size, None, large=(0.32, 1.0), small=(0.05, 0.32), count=8, size=size
    )
    config.steps = epochs * _EPOCH
    config.method.update(teacher_temperature=0.07)


def _vit(
    config: ConfigDict, name: str, *, base_lr: float, warmup: int, weight_decay_end: float
) -> None:
    """Encoder, its layers scanned and rematerialised, and optimizer of the recipes.

    Args:
      name: of the encoder.
      base_lr: peak learning rate of a batch of 1024; it grows with the root of the batch.
      warmup: in `_EPOCH` steps.
      weight_decay_end: at the end of the run.
    """
    config.model.update(
        name=name, kernel_init="normal", position_resize="dino", layer_scale=1e-5, mask_token=True,
        uniform_drop_path=True, scan_layers=True, remat="full",
    )  # fmt: skip
    peak = base_lr * (config.batch_size / 1024) ** 0.5
    config.optimizer.update(
        name="adamw",
        base_lr=peak,
        lr_scaling="none",
        final_lr_factor=1e-6 / peak,
        warmup_steps=warmup * _EPOCH,
        weight_decay=0.04,
        weight_decay_end=weight_decay_end,
        clip=dict(norm=3.0, per="all"),
        groups=dict(last_layer=dict(frozen_steps=_EPOCH), patch_embed=dict(lr_factor=0.2)),
    )


def _cifar10(config: ConfigDict) -> None:
    """DINO's variant with 4096 prototypes, KoLeo and Sinkhorn's algorithm; not in the paper."""
    common.dino_cifar10(config)
    config.method.update(num_prototypes=4096, targets="sinkhorn", koleo_chunk=64)
    config.model.update(mask_token=True, layer_scale=1e-5)
    config.optimizer.groups.patch_embed = dict(lr_factor=0.2)


def _digits(config: ConfigDict) -> None:
    """Affine views of 16x16 and 8x8, in patches of 4.

    On the test split, three seeds: with one label a class 66.5 (untrained 33.8, raw pixels 64.8),
    kNN 96.9 (63.2, 95.8), linear 96.5 (93.2, 96.4).
    """
    common.digits_multi_crop(config)
    _small_net(config, patch_size=4)


def _small_shapes(config: ConfigDict) -> None:
    """Crops of 32x32 and 16x16, in patches of 4. Its scores were not measured."""
    common.small_shapes_multi_crop(config)
    _small_net(config, patch_size=4)


def _small_net(config: ConfigDict, *, patch_size: int) -> None:
    common.small_masked_vit(config, patch_size=patch_size)
    _separate_heads(config)


def _separate_heads(config: ConfigDict) -> None:
    """Separate heads, LayerScale and Sinkhorn's algorithm, as in the large nets."""
    config.method.update(
        targets="sinkhorn",
        separate_heads=True,
        num_patch_prototypes=128,
        patch_output_dim=64,
    )
    config.model.layer_scale = 0.1
    config.optimizer.groups.patch_embed = dict(lr_factor=0.2)


def _fashion(config: ConfigDict) -> None:
    """A small ViT; crops of 28x28 and 14x14 in patches of 7."""
    fashion.masked_vit(config)
    _separate_heads(config)
