"""SimSiam (Chen & He 2021), https://arxiv.org/abs/2011.10566

    ssl_jax train --config=simsiam:VARIANT --workdir=runs/simsiam

Variants:
  digits    8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  fashion   Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10   the paper's App. D: ResNet-18 with a 3x3 stem, no blur (needs tfds:cifar10 prepared)
  imagenet  the paper's recipe: ResNet-50, batch 512, SGD, 100 epochs (needs tfds:imagenet2012)

Published (linear probe on ImageNet): 68.1 top-1 after 100 epochs.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "fashion", "cifar10", "imagenet")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("simsiam", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="simsiam",
            stop_gradient=True,  # False collapses
            projector_layers=3,
            projector_norm="no_affine",  # of the last layer; or none
            hidden_dim=2048,
            output_dim=2048,
            predictor_dim=512,
        )
    )
    # Sec. 4.2: the predictor should follow the latest representations.
    config.optimizer.groups.predictor = ConfigDict(dict(schedule="constant"))
    {"digits": _digits, "fashion": _fashion, "cifar10": _cifar10, "imagenet": _imagenet}[variant](
        config
    )
    return config


def _imagenet(config: ConfigDict) -> None:
    """Paper, Sec. 3 and App. A. Crops are made on the host, colour and blur on the device.

    Weight decay applies to all parameters, including norms and biases, as in the released code.
    """
    common.imagenet(config, batch_size=512, epochs=100.0, scale=(0.2, 1.0))
    config.model.update(name="resnet50", kernel_init="he_fan_out")
    config.views = common.moco_v2_views()
    config.optimizer.update(
        name="sgd", base_lr=0.05, lr_scaling="linear", weight_decay=1e-4, exclude="",
        warmup_epochs=0.0,
    )  # fmt: skip


def _cifar10(config: ConfigDict) -> None:
    """Paper, App. D: 800 epochs, no blur, a projector of two layers."""
    common.cifar10(config, batch_size=512, epochs=800.0, eval_every=40.0)
    config.method.projector_layers = 2
    config.model.update(name="resnet18", stem="cifar")
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "color_jitter", "grayscale", "flip"),
            random_resized_crop=dict(size=32, scale=(0.2, 1.0)),
            color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            grayscale=dict(p=0.2),
            flip=dict(p=0.5),
        )
    )
    config.optimizer.update(
        name="sgd", base_lr=0.03, lr_scaling="linear", weight_decay=5e-4, exclude="",
        warmup_epochs=0.0,
    )  # fmt: skip


def _digits(config: ConfigDict) -> None:
    """Affine views of 16x16 with strong noise; no flip, because mirrored digits are not digits.

    Measured on train[80%:] after training on train[:80%]: 80.6 with one label per class (raw pixels
    65.5, untrained encoder 56.8), 96.5 with kNN (raw pixels 94.8).
    """
    common.digits(config)
    config.method.update(hidden_dim=256, output_dim=256, predictor_dim=64)


def _fashion(config: ConfigDict) -> None:
    """The net and views of simclr:fashion."""
    fashion.images(config)
    config.method.update(hidden_dim=256, output_dim=256, predictor_dim=64)
