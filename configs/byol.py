"""BYOL (Grill et al. 2020), https://arxiv.org/abs/2006.07733

    ssl_jax train --config=byol:VARIANT --workdir=runs/byol

Variants:
  digits       8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  fashion      Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10      ResNet-18 with a 3x3 stem; not in the paper (needs tfds:cifar10 prepared)
  imagenet     the paper's recipe: ResNet-50, batch 4096, LARS, 1000 epochs (tfds:imagenet2012)
  imagenet300  the paper's ablations: 300 epochs
  imagenet100  the released code's preset for 100 epochs
  imagenet40   the released code's preset for 40 epochs

Published (linear probe on ImageNet): 74.3 top-1, 91.6 top-5 after 1000 epochs; 72.5 after 300.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "fashion", "cifar10", "imagenet", "imagenet300", "imagenet100", "imagenet40")
# Of the released code: epochs -> learning rate, weight decay, the target's first decay.
PRESETS = {
    1000: (0.2, 1.5e-6, 0.996),
    300: (0.3, 1e-6, 0.99),
    100: (0.45, 1e-6, 0.99),
    40: (0.45, 1e-6, 0.97),
}


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("byol", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="byol",
            target_decay=0.996,  # of the moving average, at the first step
            target_schedule="cosine",  # cosine: to 1 over the run; constant
            predictor=True,  # False collapses
            hidden_dim=4096,
            output_dim=256,
        )
    )
    if variant == "digits":
        _digits(config)
    elif variant == "fashion":
        _fashion(config)
    elif variant == "cifar10":
        _cifar10(config)
    else:
        _imagenet(config, epochs=int(variant.removeprefix("imagenet") or 1000))
    return config


def _imagenet(config: ConfigDict, *, epochs: int) -> None:
    """Paper, Sec. 3.3 and App. B. Crops are made on the host, colour and blur on the device.

    Brightness is additive, as in the released code.
    """
    common.imagenet(config, batch_size=4096, epochs=float(epochs))
    config.model.update(name="resnet50")
    config.views = common.byol_views(brightness_mode="additive")
    base_lr, weight_decay, config.method.target_decay = PRESETS[epochs]
    config.optimizer.update(
        name="lars",
        base_lr=base_lr,
        lr_scaling="linear",
        weight_decay=weight_decay,
        warmup_epochs=10.0,
        momentum_order="lr_outside",
    )


def _cifar10(config: ConfigDict) -> None:
    """The 300-epoch recipe on 32x32 images without blur, with batches of 512; not in the paper."""
    common.cifar10(config, batch_size=512, epochs=300.0)
    config.method.update(target_decay=0.99, hidden_dim=2048)
    config.model.update(name="resnet18", stem="cifar")
    config.views = common.byol_cifar10_views()
    config.optimizer.update(
        name="lars",
        base_lr=0.3,
        lr_scaling="linear",
        weight_decay=1e-6,
        warmup_epochs=10.0,
        momentum_order="lr_outside",
    )


def _digits(config: ConfigDict) -> None:
    """Affine views of 16x16 with strong noise; no flip, because mirrored digits are not digits.

    Measured on train[80%:] after training on train[:80%]: 78.7 with one label per class (raw pixels
    65.5, untrained encoder 56.8), 96.2 with kNN (raw pixels 94.8).
    """
    common.digits(config)
    config.method.update(target_decay=0.97, hidden_dim=256, output_dim=64)


def _fashion(config: ConfigDict) -> None:
    """The net and views of simclr:fashion."""
    fashion.images(config)
    config.method.update(target_decay=0.97, hidden_dim=256, output_dim=64)
