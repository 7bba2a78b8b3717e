"""Image GPT (Chen et al. 2020), Generative Pretraining from Pixels

    ssl_jax train --config=image_gpt:VARIANT --workdir=runs/image_gpt

Variants:
  digits                8x8 handwritten digits in 16 greys: minutes on two CPU cores
  cifar10               the net of small on images of 32x32, without augmentation (tfds:cifar10)
  small, medium, large  77M, 455M and 1362M parameters, a million steps on ImageNet at 32x32
                        (tfds:imagenet2012)

All predict each next pixel; --config.method.objective=bert predicts hidden ones. The linear probe
of every layer is --config.eval.features=layer1/mean,layer2/mean,... and so on; digits has it.

Chosen here: the learning rates, of the paper's grid 0.01, 0.003, 0.001, ..., and crops by
random_resized_crop, where the paper cuts 224 of 256 to 384 pixels.

Published: 2.0895, 2.0614 and 2.0466 nats a pixel on ImageNet (small, medium, large; the released
code's test), CIFAR-10 by a linear probe of large 96.3.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

RATES = {"small": 3e-3, "medium": 3e-3, "large": 1e-3}
VARIANTS = ("digits", "cifar10", *RATES)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("image_gpt", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="image_gpt", objective="ar"))
    {"digits": _digits, "cifar10": _cifar10}.get(variant, lambda c: _imagenet(c, variant))(config)
    config.checkpoint.update(best_metric="eval/held_out/loss", best_mode="min")
    return config


def _digits(config: ConfigDict) -> None:
    """Sequences of 64 pixels, moved and turned a little."""
    common.digits(config, epochs=60.0)
    config.batch_size = 64
    config.views.ops = ("random_affine",)
    config.views.random_affine.size = 8
    config.method.update(num_colors=16, palette_pixels=64)
    del config.model.widths
    config.model.update(name="image_gpt_tiny")
    config.eval.features = ("h", *(f"layer{i}/mean" for i in range(1, 5)))
    config.optimizer.update(base_lr=2e-3, b2=0.95, warmup_epochs=1.0)


def _cifar10(config: ConfigDict) -> None:
    """Sec. 3.4 on the images of CIFAR-10 alone."""
    common.cifar10(config, batch_size=128, epochs=100.0)
    config.views = ConfigDict(dict(ops=()))
    _paper(config, "small")


def _imagenet(config: ConfigDict, size: str) -> None:
    """Sec. 3.4: batch 128, a million steps, Adam with b2 of 0.95, a warm-up of an epoch."""
    common.imagenet(config, batch_size=128, epochs=None, crops=1, scale=(0.35, 1.0))
    config.steps = 1_000_000
    config.data.image_size = 32
    config.views = ConfigDict(dict(ops=()))
    _paper(config, size)


def _paper(config: ConfigDict, size: str) -> None:
    config.model.update(name=f"image_gpt_{size}", scan_layers=True, remat="dots")
    config.optimizer.update(
        name="adamw",
        base_lr=RATES[size],
        lr_scaling="none",
        schedule="cosine",
        warmup_epochs=1.0,
        weight_decay=0.0,
        b2=0.95,
    )
