"""Context encoders (Pathak et al. 2016), https://arxiv.org/abs/1604.07379

    ssl_jax train --config=context_encoder:VARIANT --workdir=runs/context_encoder

Variants:
  small_shapes      2048 generated shapes of 32x32: a few minutes on two CPU cores
  fashion           Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10           random regions, channel-wise layer; not in the paper (tfds:cifar10 prepared)
  imagenet          the released nets and losses at 128 pixels, centre hole (tfds:imagenet2012)
  imagenet_alexnet  AlexNet on random regions, squared error alone, for its features

The sweep sweeps/context_encoder compares the squared error alone with the joint loss. Published, of
AlexNets trained on random regions and fine-tuned on PASCAL VOC: classification 56.5, detection
44.5, segmentation 30.0.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("small_shapes", "fashion", "cifar10", "imagenet", "imagenet_alexnet")


def get_config(variant: str = "small_shapes") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("context_encoder", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="context_encoder"))
    config.nets.decoder = ConfigDict(dict(name="inpainting_decoder"))
    config.nets.discriminator = ConfigDict(dict(name="inpainting_discriminator"))
    {
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "imagenet_alexnet": _imagenet_alexnet,
    }[variant](config)
    return config


def _imagenet(config: ConfigDict) -> None:
    """`train.lua` of the released code: batches of 64, crops of 128 and flips.

    The host crops; the range of areas and the length are ours. The code resizes the shorter side to
    350 and crops 128 pixels, for 500 passes over its smaller data.
    """
    common.imagenet(config, batch_size=64, epochs=20.0, crops=1, scale=(0.1, 0.5))
    config.data.image_size = 128
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.model.name = "inpainting_encoder"
    _adam(config)


def _imagenet_alexnet(config: ConfigDict) -> None:
    """AlexNet and random regions, for features (Sec. 5.2).

    Squared error alone, because the paper's adversarial loss did not converge with AlexNet, and its
    rate of 1e-4 for random regions. Five transposed convolutions follow the channel-wise layer.
    Ours are the length, the range of areas, the fine details of AlexNet and the channels of the
    decoder. With a padding of 5 the last pooling of images of 224 has 7x7 positions, not 6x6, so
    that five doublings end at 224 again.
    """
    common.imagenet(config, batch_size=64, epochs=20.0, crops=1, scale=(0.2, 1.0))
    config.method.update(mask="random_region", overlap=0, adversarial_weight=0.0)
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.model.update(
        name="alexnet", widths=(96, 256, 384, 384, 256), norm="lrn", groups=2, conv1_padding=5
    )
    config.nets.decoder.update(link="channel_wise", channels=(256, 128, 64, 64, 32))
    del config.nets.discriminator
    config.optimizer.update(
        name="adamw", base_lr=1e-4, lr_scaling="none", schedule="constant", warmup_epochs=0.0,
        weight_decay=0.0, b1=0.5,
    )  # fmt: skip


def _cifar10(config: ConfigDict) -> None:
    """Random regions of whole images of 32x32, for 100 epochs."""
    common.cifar10(config, batch_size=128, epochs=100.0)
    config.method.update(mask="random_region", overlap=1)
    _crops(config)
    config.model.update(name="inpainting_encoder", channels=(64, 128, 256))
    config.nets.decoder.update(link="channel_wise", channels=(256, 128, 64))
    config.nets.discriminator.channels = (64, 128, 256)
    _adam(config)


def _small_shapes(config: ConfigDict) -> None:
    """The middle 16x16 of 32x32 pixels, with a band of one pixel and small nets.

    The discriminator's rate is a quarter of the paper's. With it, its accuracy is 81% and the PSNR
    of training 19.3 dB after 500 steps (means of the last 50, one seed). With the paper's rate it
    soon tells all filled images apart: 99%. On test images holes then had 18.1 dB, and the features
    were at chance: 17.5 with one label a class, 18.1 with eight (chance 16.7).
    """
    common.small_shapes(config, epochs=16.0)
    config.method.overlap = 1
    _crops(config)
    config.batch_size = 64
    config.eval.every_epochs = config.checkpoint.every_epochs = 8.0
    _small_nets(config)


def _small_nets(config: ConfigDict) -> None:
    """Nets of two or three stages, and a slow discriminator."""
    del config.model.widths
    config.model.update(name="inpainting_encoder", channels=(32, 64, 128))
    config.nets.decoder.update(bottleneck=256, channels=(64, 32))
    config.nets.discriminator.channels = (8, 16)
    _adam(config)
    config.optimizer.groups.discriminator.base_lr = 5e-5


def _crops(config: ConfigDict) -> None:
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=32, scale=(0.5, 1.0)),
            flip=dict(p=0.5),
        )
    )


def _adam(config: ConfigDict) -> None:
    """Adam with b1 0.5 at a constant rate, ten times higher for the generator."""
    config.optimizer.update(
        name="adamw",
        base_lr=2e-3,
        lr_scaling="none",
        schedule="constant",
        warmup_epochs=0.0,
        weight_decay=0.0,
        b1=0.5,
        groups=dict(discriminator=dict(base_lr=2e-4)),
    )


def _fashion(config: ConfigDict) -> None:
    """Photos enlarged to 32x32, and the nets of small_shapes."""
    fashion.images(config, epochs=8.0, batch_size=64)
    config.method.update(overlap=1, fill=(0.29,))
    _crops(config)
    _small_nets(config)
