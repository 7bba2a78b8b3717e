"""VAE (Kingma & Welling 2014), https://arxiv.org/abs/1312.6114, and beta-VAE (Higgins et al. 2017),
https://openreview.net/forum?id=Sy2fzU9gl

    ssl_jax train --config=vae:VARIANT --workdir=runs/vae

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: half a minute on two CPU cores
  small_shapes  beta-VAE on drawn shapes of 32x32 pixels with known factors, on two CPU cores
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  shapes        the same at 64x64 pixels with the nets of Burgess et al. 2018, for an accelerator
  dsprites      beta-VAE on dSprites with the nets of Burgess et al. 2018 (needs tfds:dsprites
                prepared, or its file, see the docs on data)
  shapes3d      beta-VAE on Shapes3D with the nets of Kim & Mnih 2018 (tfds:shapes3d, or its file)
  mnist         a VAE as Burda et al. 2015 compare with (needs tfds:mnist prepared)
  celeba        beta-VAE with the nets of Higgins et al. 2017, Table 1 (needs tfds:celeb_a prepared)

Published: minus the log likelihood of MNIST's test images 86.76 nats, estimated with 5000 samples
of z, and 19 active latents of 50 (Burda et al. 2015, Table 1, one layer, k = 1). `mnist` ends with
the same estimate (`iwae`); the ELBO has one sample and is looser.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = (
    "digits",
    "small_shapes",
    "fashion",
    "shapes",
    "dsprites",
    "shapes3d",
    "mnist",
    "celeba",
)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("vae", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="vae", num_latents=10))
    config.nets = ConfigDict(dict(decoder=dict(name="conv_decoder")))
    config.views = ConfigDict(dict(ops=()))
    config.optimizer.update(
        name="adamw",
        lr_scaling="none",
        schedule="constant",
        weight_decay=0.0,
        warmup_epochs=0.0,
    )
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "shapes": _shapes,
        "dsprites": _dsprites,
        "shapes3d": _shapes3d,
        "mnist": _mnist,
        "celeba": _celeba,
    }[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """Kingma & Welling's net with fewer units; grey pixels under Bernoulli."""
    config.batch_size = 64
    config.epochs = 120.0
    config.data.name = "digits"
    config.model.update(name="mlp_encoder", widths=(200,), activation="tanh")
    config.nets.decoder = ConfigDict(dict(name="mlp_decoder", widths=(200,), activation="tanh"))
    config.optimizer.update(base_lr=2e-3, schedule="cosine", warmup_epochs=5.0)
    config.eval.update(every_epochs=30.0, batch_size=512, baselines=("pixels", "untrained"))
    config.checkpoint.every_epochs = 30.0


def _small_shapes(config: ConfigDict) -> None:
    _generated(config, num_generated=8192, epochs=12.0)
    config.data.image_size = 32
    config.model.update(name="conv_encoder", channels=(32, 32, 32), widths=(128,))
    config.nets.decoder = ConfigDict(
        dict(name="conv_decoder", channels=(32, 32, 32), widths=(128,))
    )
    config.optimizer.base_lr = 1e-3
    config.eval.dci = ConfigDict(dict(max_train_examples=1000, factor_bins=5))


def _shapes(config: ConfigDict) -> None:
    _generated(config, num_generated=200_000, epochs=100.0)
    config.data.image_size = 64
    _burgess(config)


def _dsprites(config: ConfigDict) -> None:
    """The loss of Higgins et al. 2017, whose nets are dense; 29 epochs are about 300,000 steps."""
    _factors(config, epochs=29.0)
    _published(config, "tfds:dsprites")
    _burgess(config)


def _shapes3d(config: ConfigDict) -> None:
    """Kim & Mnih 2018, App. A: the nets of `celeba`, Adam at 1e-4. 44 epochs: 300,000 steps."""
    _factors(config, epochs=44.0)
    _published(config, "tfds:shapes3d")
    config.model.name = "conv_encoder"
    config.optimizer.base_lr = 1e-4


def _burgess(config: ConfigDict) -> None:
    """Burgess et al. 2018, Sec. 5: four convolutions of 32 channels, Adam at 5e-4."""
    config.model.update(name="conv_encoder", channels=(32,) * 4, widths=(256, 256))
    config.nets.decoder = ConfigDict(
        dict(name="conv_decoder", channels=(32,) * 4, widths=(256, 256))
    )
    config.optimizer.base_lr = 5e-4
    config.eval.max_train_examples = 10_000


def _published(config: ConfigDict, name: str) -> None:
    """All images but a tenth, which is for testing: the published sets have one split."""
    config.data.update(name=name, image_size=64, split="train[10%:]", workers=8)
    config.eval.update(
        train_split="train[10%:]", test_split="train[:10%]", max_train_examples=10_000,
        batch_size=1000,
    )  # fmt: skip


def _generated(config: ConfigDict, *, num_generated: int, epochs: float) -> None:
    """Drawn shapes."""
    _factors(config, epochs=epochs)
    config.data.name = "shapes"
    config.data.options = ConfigDict(dict(num_generated=num_generated))


def _factors(config: ConfigDict, *, epochs: float) -> None:
    """The loss of a beta-VAE, and scores of disentanglement."""
    config.batch_size = 64
    config.epochs = epochs
    config.method.beta = 4.0
    config.eval.update(
        every_epochs=epochs / 4,
        batch_size=256,
        final_names=(
            "mig",
            "dci",
            "sap",
            "beta_vae_metric",
            "factor_vae_metric",
            "active_units",
            "linear",
        ),
    )
    config.checkpoint.every_epochs = epochs / 4


def _mnist(config: ConfigDict) -> None:
    """Burda et al. 2015, Sec. 5: 50 latents, pixels drawn black or white at every step.

    Their learning rate falls in eight steps from 1e-3 to 1e-4 over 3280 epochs of batches of 20.
    """
    config.batch_size = 100
    config.epochs = 200.0
    config.data.update(name="tfds:mnist", image_size=28)
    config.method.update(num_latents=50, binarize=True)
    config.model.update(name="mlp_encoder", widths=(200, 200), activation="tanh")
    config.nets.decoder = ConfigDict(dict(name="mlp_decoder", widths=(200, 200), activation="tanh"))
    config.optimizer.update(base_lr=1e-3, schedule="cosine", final_lr_factor=0.1, eps=1e-4)
    config.eval.update(every_epochs=20.0, batch_size=1000)
    config.eval.final_names = (*config.eval.final_names, "active_units", "iwae")
    config.eval.iwae.num_samples = 5000
    config.checkpoint.every_epochs = 20.0


def _celeba(config: ConfigDict) -> None:
    """Higgins et al. 2017: 32 latents, Gaussian pixels, beta 250, Adam at 1e-4.

    The paper gives neither the length nor the standard deviation of the pixels, on which the effect
    of beta depends; 0.1 is ours.
    """
    config.batch_size = 64
    config.epochs = 100.0
    config.data.update(name="tfds:celeb_a", image_size=64, workers=8)
    config.method.update(num_latents=32, beta=250.0, likelihood="gaussian", noise_std=0.1)
    config.model.name = "conv_encoder"
    config.optimizer.base_lr = 1e-4
    config.eval.update(online=False, every_epochs=10.0, batch_size=1000)
    config.checkpoint.every_epochs = 10.0


def _fashion(config: ConfigDict) -> None:
    """The net of digits with 400 units and 16 latents; grey pixels under Bernoulli."""
    fashion.as_they_are(config, epochs=20.0, batch_size=128)
    config.method.num_latents = 16
    config.model.update(name="mlp_encoder", widths=(400,), activation="tanh")
    config.nets.decoder = ConfigDict(dict(name="mlp_decoder", widths=(400,), activation="tanh"))
    config.optimizer.update(base_lr=2e-3, schedule="cosine")
