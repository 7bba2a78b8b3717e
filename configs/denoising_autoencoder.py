"""Denoising autoencoders (Vincent et al. 2010),
https://jmlr.org/papers/v11/vincent10a.html

    ssl_jax train --config=denoising_autoencoder:VARIANT --workdir=runs/denoising

Variants:
  digits           8x8 handwritten digits that come with scikit-learn: half a minute on two cores
  mnist            one layer of 1000 sigmoid units, a quarter of the pixels masked (tfds:mnist
                   prepared)
  fashion          the same on 10,000 images of Fashion-MNIST: minutes on two CPU cores
  digits_stack     one layer of a stack, the first one of 128 units
  mnist_stack      the same with 1000 units on MNIST
  digits_finetune  a classifier on a stack of two layers, all of which is trained; from init_from
  mnist_finetune   the same with three layers on MNIST

A stack is trained layer by layer, each on the codes of the run below:

    ssl_jax train --config=denoising_autoencoder:digits_stack --workdir=runs/layer1
    ssl_jax train --config=denoising_autoencoder:digits_stack --config.model.widths=(128,64) \
        --config.init_from=runs/layer1 --workdir=runs/layer2
    ssl_jax train --config=denoising_autoencoder:digits_finetune --config.init_from=runs/layer2 \
        --workdir=runs/finetuned

For other noise: --config.method.corruption=salt_and_pepper or gaussian, --config.method.amount=0.3.

Published (MNIST, three stacked layers, fine-tuned): an error of 1.28%. Measured with `digits` (one
seed): 67.0 with one label a class (raw pixels 64.1, untrained encoder 62.0), 91.6 with kNN (95.8,
89.4).
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import autoencoder, common

VARIANTS = (
    "digits",
    "mnist",
    "fashion",
    "digits_stack",
    "mnist_stack",
    "digits_finetune",
    "mnist_finetune",
)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("denoising_autoencoder", variant, VARIANTS)
    data, _, part = variant.partition("_")
    if part:
        return _stack(data) if part == "stack" else _finetune(data)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="denoising_autoencoder", corruption="masking", amount=0.25, activation="sigmoid",
            error="cross_entropy", tied=True,
        )
    )  # fmt: skip
    autoencoder.start(config)
    if variant == "digits":
        autoencoder.digits(config, widths=(), num_latents=128)
    else:
        autoencoder.images_of_28(config, variant)
        config.method.num_latents = 1000
    del config.nets.decoder
    return config


def _stack(data: str) -> ConfigDict:
    """One layer; `model.widths` has those below too. Vincent et al.: rate and epochs are ours."""
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="stacked_denoising_autoencoder", corruption="masking", amount=0.25,
            error="cross_entropy",
        )
    )  # fmt: skip
    _sigmoid_layers(config, data, depth=1)
    return config


def _finetune(data: str) -> ConfigDict:
    """A linear classifier on the last layer; the learning rate of all layers is the same."""
    config = base_config()
    config.method = ConfigDict(dict(name="supervised"))
    _sigmoid_layers(config, data, depth={"digits": 2, "mnist": 3}[data])
    config.epochs = 60.0
    config.eval.update(names=("accuracy",), final_names=("accuracy", "knn"))
    config.checkpoint.best_metric = "eval/accuracy/top1"
    return config


def _sigmoid_layers(config: ConfigDict, data: str, depth: int) -> None:
    autoencoder.start(config)
    if data == "digits":
        autoencoder.digits(config, widths=(128, 64)[:depth])
    else:
        autoencoder.images_of_28(config, data)
        config.model.widths = (1000,) * depth
    config.model.activation = "sigmoid"
    del config.nets.decoder
