"""Autoencoders with a bottleneck (Hinton & Salakhutdinov 2006),
https://www.cs.toronto.edu/~hinton/absps/science.pdf

    ssl_jax train --config=autoencoder:VARIANT --workdir=runs/autoencoder

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: half a minute on two CPU cores
  small_shapes  drawn shapes of 32x32 with convolutions
  mnist         layers of 1000, 500, 250 and 30 units, as in the paper (tfds:mnist prepared)
  fashion       the same on Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  celeba        the nets of vae:celeba and a code of 128 (needs tfds:celeb_a prepared); ours

For sparse codes: --config.method.activation=relu --config.method.l1=0.1.

The paper trains its layers one after another before all together, with sigmoid units; here all are
trained together, with ReLU. Published: a squared error of 3.00 an image on MNIST's test images, and
13.87 with 30 principal components.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "small_shapes", "mnist", "fashion", "celeba")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("autoencoder", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="autoencoder", activation="linear", l1=0.0))
    start(config)
    if variant == "digits":
        digits(config, widths=(200,), num_latents=16)
    elif variant == "small_shapes":
        _small_shapes(config)
    elif variant == "celeba":
        _celeba(config)
    else:
        images_of_28(config, variant)
        config.method.update(num_latents=30, error="cross_entropy")
        config.model.widths = (1000, 500, 250)
        config.nets.decoder.widths = (250, 500, 1000)
    return config


def start(config: ConfigDict) -> None:
    """What all variants share: images as they are, dense layers, Adam."""
    config.views = ConfigDict(dict(ops=()))
    config.model.update(name="mlp_encoder", widths=())
    config.nets = ConfigDict(dict(decoder=dict(name="mlp_decoder", widths=())))
    config.optimizer.update(
        name="adamw", lr_scaling="none", schedule="cosine", weight_decay=0.0, base_lr=1e-3
    )


def digits(config: ConfigDict, *, widths: tuple[int, ...], num_latents: int | None = None) -> None:
    """The embedded digits, with hidden layers of these widths on both sides of the code.

    Measured with 200 units and a code of 16 (one seed): with one label a class the code reaches
    64.0, as raw pixels do (64.1); the untrained encoder 49.2. With kNN 94.4 (95.8, 80.5). The
    squared error of test images is 0.43.
    """
    config.batch_size = 64
    config.epochs = 120.0
    config.data.name = "digits"
    if num_latents is not None:
        config.method.num_latents = num_latents
    config.model.widths = widths
    config.nets.decoder.widths = widths[::-1]
    config.optimizer.update(base_lr=2e-3, warmup_epochs=5.0)
    config.eval.update(every_epochs=30.0, batch_size=512, baselines=("pixels", "untrained"))
    config.checkpoint.every_epochs = 30.0


def images_of_28(config: ConfigDict, variant: str) -> None:
    """All of MNIST, or 10,000 images of Fashion-MNIST."""
    if variant == "fashion":
        fashion.as_they_are(config, epochs=15.0, batch_size=100)
        return
    config.batch_size = 100
    config.epochs = 100.0
    config.data.update(name="tfds:mnist", image_size=28)
    config.optimizer.warmup_epochs = 1.0
    config.eval.update(every_epochs=10.0, batch_size=1000)
    config.checkpoint.every_epochs = 10.0


def _small_shapes(config: ConfigDict) -> None:
    config.batch_size = 64
    config.epochs = 12.0
    config.data.update(name="shapes", image_size=32)
    config.data.options = ConfigDict(dict(num_generated=8192))
    config.method.num_latents = 10
    del config.model.widths, config.nets.decoder.widths
    config.model.update(name="conv_encoder", channels=(32, 32, 32), widths=(128,))
    config.nets.decoder = ConfigDict(
        dict(name="conv_decoder", channels=(32, 32, 32), widths=(128,))
    )
    config.eval.update(every_epochs=3.0, batch_size=256, final_names=("mig", "sap", "linear"))
    config.checkpoint.every_epochs = 3.0


def _celeba(config: ConfigDict) -> None:
    config.batch_size = 64
    config.epochs = 20.0
    config.data.update(name="tfds:celeb_a", image_size=64, workers=8)
    config.method.num_latents = 128
    del config.model.widths, config.nets.decoder.widths
    config.model.name = "conv_encoder"
    config.nets.decoder.name = "conv_decoder"
    config.optimizer.base_lr = 5e-4
    config.eval.update(online=False, every_epochs=5.0, batch_size=1000)
    config.checkpoint.every_epochs = 5.0
