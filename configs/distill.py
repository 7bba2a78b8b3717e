r"""Distillation, the last step of SimCLR v2 (Chen et al. 2020), https://arxiv.org/abs/2006.10029

    ssl_jax train --config=distill:VARIANT --workdir=runs/distill \
        --config.init_from=runs/teacher

The teacher is a run of supervised:digits, or of supervised:finetune_v2 for ImageNet. With
--config.data.labelled_fraction=0.1 --config.data.unlabelled=keep the student sees all images and a
tenth of the labels; the labels only matter with method.distill_weight below 1.

Variants:
  digits         8x8 handwritten digits that come with scikit-learn
  imagenet       self-distillation of a ResNet-50 on all images, without labels
  imagenet_big   distillation of a ResNet-152, 3x wide with selective kernels, into a ResNet-50
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("digits", "imagenet", "imagenet_big")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("distill", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="distill",
            teacher_projector_layers=0,
            teacher_hidden_dim=placeholder(int),
            distill_weight=1.0,  # the rest is the labels'
            temperature=1.0,
        )
    )
    # While training the test split says enough, and the train split need not be encoded.
    config.eval.update(names=("accuracy",), final_names=("accuracy", *config.eval.final_names))
    config.checkpoint.best_metric = "eval/accuracy/top1"
    {"digits": _digits, "imagenet": _imagenet, "imagenet_big": _imagenet_big}[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """The views and the encoder of supervised:digits."""
    common.digits(config, epochs=60.0, noise_p=0.5)


def _imagenet(config: ConfigDict) -> None:
    """400 epochs with the optimizer of pretraining, random crops and flips only (section 3)."""
    common.imagenet(config, batch_size=4096, epochs=400.0, crops=1, eval_every=20.0, save_every=2.0)
    config.model.update(name="resnet50")
    config.method.update(teacher_projector_layers=1)
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.optimizer.update(
        name="lars", base_lr=0.1, lr_scaling="sqrt", weight_decay=1e-4, warmup_epochs=20.0
    )


def _imagenet_big(config: ConfigDict) -> None:
    _imagenet(config)
    config.nets.teacher = ConfigDict(
        dict(name="resnet152", width=3.0, stem="deep", shortcut="pool", sk_ratio=0.0625)
    )
