"""Metric learning: thirteen losses that bring examples of a class together

    ssl_jax train --config=metric_learning:VARIANT --workdir=runs/metric_learning
    ssl_jax train --config=metric_learning:digits --config.method.loss=arcface

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  small_shapes  generated 32x32 images in colour: two minutes on two CPU cores
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("digits", "small_shapes")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("metric_learning", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="metric_learning",
            # pair, triplet, quadruplet, n_pair, lifted_structured, supcon, center, sphereface,
            # cosface, arcface, subcenter_arcface, adacos, adaptive_margin
            loss="triplet",
            distance=placeholder(str),  # euclidean, squared, cosine, angular
            mining="batch_hard",
            soft_margin=False,
            reduction=placeholder(str),  # mean_nonzero, mean, sum
            margin=placeholder(float),  # unset: that of the loss
            scale=placeholder(float),
            temperature=0.1,  # of supcon
            subcenters=3,  # of subcenter_arcface and adaptive_margin
            head="prelu",  # prelu, norm, linear
            output_dim=128,
        )
    )
    config.eval.update(names=("retrieval",), final_names=("retrieval", "knn"), features=("h", "z"))
    config.checkpoint.best_metric = "eval/retrieval/recall_1"
    {"digits": _digits, "small_shapes": _small_shapes}[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """The encoder of simclr:digits, and its views, half of them without noise."""
    common.digits(config, epochs=60.0, noise_p=0.5)
    _pk(config, classes=5, examples=32)
    config.method.output_dim = 64


def _small_shapes(config: ConfigDict) -> None:
    """A small conv net on 2048 generated 32x32 images."""
    common.small_shapes(config)
    _pk(config, classes=4, examples=32)
    config.method.output_dim = 64


def _pk(config: ConfigDict, *, classes: int, examples: int) -> None:
    """Batches of some classes with as many examples of each."""
    config.batch_size = classes * examples
    config.data.sampler = ConfigDict(dict(name="pk", examples_per_class=examples))
