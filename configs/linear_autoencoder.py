"""Linear autoencoders, which find the principal subspace (Baldi & Hornik 1989),
https://doi.org/10.1016/0893-6080(89)90014-2

    ssl_jax train --config=linear_autoencoder:VARIANT --workdir=runs/linear_autoencoder

Variants:
  digits     8x8 handwritten digits that come with scikit-learn, separate factors
  tied       the same with one matrix for both
  penalised  the same with an l2 penalty on both factors, under which the axes are the principal
             directions up to a rotation of the code (Kunin et al. 2019)
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import autoencoder, common

VARIANTS = ("digits", "tied", "penalised")


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("linear_autoencoder", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="autoencoder"))
    autoencoder.start(config)
    autoencoder.digits(config, widths=(), num_latents=10)
    config.epochs = 200.0
    config.batch_size = 256
    config.optimizer.base_lr = 5e-3
    if variant == "tied":
        config.method.tied = True
        del config.nets.decoder
    if variant == "penalised":
        config.method.l2 = 0.1
    return config
