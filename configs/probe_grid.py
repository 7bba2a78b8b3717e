"""Linear evaluation as a grid: all rates, decays, layers and poolings in one pass over the images

    ssl_jax train --config=probe_grid:VARIANT --workdir=runs/probes \\
        --config.init_from=runs/pretrained

Variants:
  digits      on the conv net of the `digits` variants of most methods: half a minute on two cores
  digits_vit  on the small ViT of mae:digits and ijepa:digits, with attentive probes
  imagenet    on a ResNet-50, whose features are normalised; for another net set model.name
  dinov2      DINOv2's protocol, on a ViT-S/16: the best of the last one and the last four layers,
              class token with and without the mean of the patches
  capi        CAPI's attentive probe on a ViT-L/16, and the four linear ones of dinov2 beside it

Every probe is trained as if it were alone; the best one is chosen by a tenth of the training split
that is held out, and scored once on the test split. Without init_from the encoder is untrained.

Published (ImageNet, README of DINOv2): ViT-S/14 81.1, ViT-B/14 84.5, ViT-L/14 86.3, ViT-g/14 86.5.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("digits", "digits_vit", "imagenet", "dinov2", "capi")
_DINOV2 = ("last1/cls", "last4/cls", "last1/cls_mean", "last4/cls_mean")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("probe_grid", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="probe_grid"))
    {
        "digits": _digits,
        "digits_vit": _digits_vit,
        "imagenet": _imagenet,
        "dinov2": _dinov2,
        "capi": _capi,
    }[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """Stages of the conv net, normalised, and attentive probes of its last map."""
    _digits_grid(config)
    config.method.features = ("h", "stage3/mean", "last2/mean", "last1/patches")


def _digits_vit(config: ConfigDict) -> None:
    """The net of mae:digits."""
    _digits_grid(config)
    del config.model.widths
    config.model.update(
        name="vit_ti16", patch_size=4, dim=64, depth=4, num_heads=4, positions="sincos"
    )
    config.method.features = (*_DINOV2, "last1/patches")


def _digits_grid(config: ConfigDict) -> None:
    """Few steps at high rates: 40 passes over 1,300 images are 200 steps."""
    common.digits(config, epochs=40.0, noise_p=0.5)
    config.method.update(
        normalize=True,
        learning_rates=(3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
        weight_decays=(0.0, 1e-3, 1e-2),
        attentive_learning_rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        attentive_weight_decays=(5e-4, 5e-2),
        val_fraction=0.2,
    )
    _probes(config, lr_scaling="none")
    config.eval.baselines = ()


def _imagenet(config: ConfigDict) -> None:
    """Rates around those of the recipes `supervised:linear*`, for features of variance 1."""
    _images(config, epochs=90.0, batch_size=4096)
    config.model.update(name="resnet50")
    config.method.update(
        features=("h",),
        normalize=True,
        learning_rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
        weight_decays=(0.0, 1e-6, 1e-5, 1e-4),
    )
    _probes(config, lr_scaling="linear")


def _dinov2(config: ConfigDict) -> None:
    """The released command: 10 epochs of 1,250 steps of 1,024 images, crops and flips.

    It differs in the choice: there the test split chooses, here a held-out tenth of train.
    """
    _images(config, epochs=None, batch_size=1024)
    config.steps = 12_500
    config.model.update(name="vit_s16")
    config.method.features = _DINOV2
    _probes(config, lr_scaling="linear")


def _capi(config: ConfigDict) -> None:
    """CAPI's grid of attentive probes: AdamW, ten rates by three decays."""
    _dinov2(config)
    config.model.update(name="vit_l16")
    config.method.features = (*_DINOV2, "last1/patches")


def _images(config: ConfigDict, *, epochs: float | None, batch_size: int) -> None:
    common.imagenet(config, batch_size=batch_size, epochs=epochs, crops=1)
    config.views = ConfigDict(dict(ops=("flip", "normalize"), flip=dict(p=0.5), normalize=dict()))


def _probes(config: ConfigDict, *, lr_scaling: str) -> None:
    """SGD with momentum, AdamW for attentive probes; the grid has factors of base_lr."""
    config.optimizer.update(
        name="sgd", base_lr=1.0, lr_scaling=lr_scaling, weight_decay=0.0, warmup_epochs=0.0
    )
    config.optimizer.groups = ConfigDict(dict(attentive=dict(name="adamw", b1=0.9, b2=0.95)))
    config.eval.update(
        every_epochs=0.0, names=("probe_grid",), final_names=("probe_grid",), online=False,
        collapse_every_steps=0,
    )  # fmt: skip
    config.checkpoint.best_metric = "eval/probe_grid/val_top1"
