"""Contrastive predictive coding on images: CPC, https://arxiv.org/abs/1807.03748, and CPC v2
(Henaff et al. 2020), https://arxiv.org/abs/1905.09272

    ssl_jax train --config=cpc_images:VARIANT --workdir=runs/cpc_images

Variants:
  digits            8x8 handwritten digits that come with scikit-learn: a minute on two CPU cores
  small_shapes      2048 generated shapes of 32x32, patches of 16 pixels: minutes on two CPU cores
  fashion           Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  imagenet          CPC: ResNet-v2-101 without BatchNorm, 7x7 patches of 64, batch 512
  imagenet_v2_r50   CPC v2: ResNet-50 with LayerNorm, 6x6 patches of 80, four directions
  imagenet_v2_r161  CPC v2: ResNet-161 with LayerNorm, the net of its best results

ImageNet is tfds:imagenet2012. Published (linear probe, top-1 and top-5): CPC 48.7 and 73.6; CPC v2
with ResNet-50 63.8 and 85.3, with ResNet-161 71.5 and 90.1, which recognises 77.9% (top-5) after
fine-tuning with 1% of the labels and 91.2% with 10%.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "small_shapes", "fashion", "imagenet", "imagenet_v2_r50", "imagenet_v2_r161")
# What CPC v2 does with each patch (App. A): two primitives of AutoAugment, elastic deformation and
# shear, colour histogram, the colours of Szegedy et al. 2014, grey, and one of three channels. The
# paper prints the probabilities.
PATCH_OPS = (
    "rand_augment", "elastic", "tone_curve", "color_jitter", "grayscale", "drop_channels",
)  # fmt: skip
PATCH_AUGMENTATION = dict(
    rand_augment=dict(num_ops=2, magnitude=5.0, magnitude_std=2.5, p=1.0),
    elastic=dict(p=0.2),
    tone_curve=dict(p=0.2),
    color_jitter=dict(
        brightness=32 / 255, brightness_mode="additive", contrast=0.5, saturation=0.5, hue=0.2,
        p=0.8,
    ),
    grayscale=dict(p=0.25),
    drop_channels=dict(p=1.0),
)  # fmt: skip


def get_config(variant: str = "small_shapes") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("cpc_images", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="cpc_images"))
    config.nets.context = ConfigDict(dict(name="pixel_context"))
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "imagenet": _imagenet,
        "imagenet_v2_r50": _imagenet_v2_r50,
        "imagenet_v2_r161": _imagenet_v2_r161,
    }[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """5x5 patches of 8 pixels with stride 2, of digits enlarged to 16; predicts 3 and 4 rows ahead.

    At 4 rows, context and target have no pixel in common. Measured with seeds 0 and 1, one label a
    class: 49.8 and 50.2%; untrained encoders have 44.1 and 52.1, and raw pixels 64.1 and 65.4.
    So training is not shown to help here: the mean over patches does not tell where a stroke is.
    """
    common.digits(config, epochs=60.0, noise_p=0.5)
    config.model.update(widths=(32, 64, 128), norm="layer")
    config.method.update(patch_size=8, stride=2, first_step=3, last_step=4)
    config.nets.context.update(depth=2, dim=64, target_dim=64, scale=0.3)
    config.views.gaussian_noise.std = 0.1


def _small_shapes(config: ConfigDict) -> None:
    """5x5 patches of 16 pixels with stride 4, of enlarged parts of the image.

    The colours of shape and ground are those of all patches of an image, and would be enough to
    tell images apart. So each patch has its own hue and one of its channels.

    Measured with seed 0 only (five draws of the labels): 23.4% with 32 labels of a shape and 27.8%
    with 128, where the untrained encoder has 20.0 and 25.3, and raw pixels 17.8 and 19.6. With 8
    labels 18.9 and 17.7: not told from each other, nor from chance (16.7).
    """
    common.small_shapes(config, epochs=18.0)
    config.batch_size = 64
    config.eval.every_epochs = config.checkpoint.every_epochs = 9.0
    config.model.update(widths=(32, 64, 128), norm="layer")
    config.method.update(patch_size=16, stride=4, first_step=3, last_step=4)
    config.nets.context.update(depth=2, dim=64, target_dim=64, scale=0.3)
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=32, scale=(0.3, 0.6)),
            flip=dict(p=0.5),
        )
    )
    config.views.families = ConfigDict(
        dict(
            patch=dict(
                count=1,
                ops=("color_jitter", "drop_channels"),
                color_jitter=dict(hue=0.5, p=1.0),
                drop_channels=dict(p=1.0),
            )
        )
    )
    config.optimizer.update(base_lr=3e-3, warmup_epochs=2.0)
    config.eval.few_shot.update(shots=(1, 8, 32, 128), draws=5)  # with 8 all are near chance


def _photos(config: ConfigDict, *, size: int, epochs: float | None) -> None:
    """ImageNet resized to 300, random crops of `size` without resizing, mirrored, batch 512.

    The paper resizes to 300x300; here the central square is kept.
    """
    common.imagenet(config, batch_size=512, epochs=epochs, eval_every=20.0)
    config.data.image_size = 300
    config.data.host_crops = ConfigDict({})
    config.eval.batch_size = 256  # every image has 36 or 49 patches
    area = (size / 300) ** 2  # no resizing
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=size, scale=(area, area), ratio=(1.0, 1.0)),
            flip=dict(p=0.5),
        )
    )
    config.optimizer.update(
        name="adamw", lr_scaling="none", schedule="constant", weight_decay=0.0, warmup_epochs=0.0
    )


def _imagenet(config: ConfigDict) -> None:
    """CPC: grey images, crops of 60x60 of each patch, Adam at 2e-4 on 32 GPUs with 16 images each.

    The paper prints no length; 200 epochs are those of CPC v2.
    """
    _photos(config, size=256, epochs=200.0)
    config.method.update(patch_size=64, stride=32, grey=True)
    config.views.families = ConfigDict(
        dict(patch=dict(count=1, ops=("crop_and_pad",), crop_and_pad=dict(size=60)))
    )
    config.model = ConfigDict(dict(name="resnet_v2_101", stages=3, norm="none"))
    config.optimizer.base_lr = 2e-4


def _imagenet_v2(config: ConfigDict) -> None:
    """CPC v2's four directions, patches, augmentation and Adam; weights are averaged."""
    _photos(config, size=260, epochs=200.0)
    config.method.update(
        patch_size=80, stride=36, directions=("down", "up", "right", "left"), first_step=3,
        last_step=3,
    )  # fmt: skip
    config.nets.context.update(target_dim=64, scale=0.1)
    config.views.families = ConfigDict(
        dict(patch=dict(count=1, ops=PATCH_OPS, **PATCH_AUGMENTATION))
    )
    config.optimizer.update(base_lr=4e-4, b1=0.8, polyak=0.9999, clip=dict(norm=0.01))
    config.eval.weights = "polyak"


def _imagenet_v2_r50(config: ConfigDict) -> None:
    """The net of the comparison with other methods, 24M parameters."""
    _imagenet_v2(config)
    config.model = ConfigDict(dict(name="resnet_v2_50", norm="layer"))


def _imagenet_v2_r161(config: ConfigDict) -> None:
    """The net of the best results, 305M parameters; activations inside of blocks are recomputed."""
    _imagenet_v2(config)
    config.model = ConfigDict(dict(name="resnet_v2_161", norm="layer", remat=True))


def _fashion(config: ConfigDict) -> None:
    """5x5 patches of 12 pixels with stride 4; predicts 3 and 4 rows ahead."""
    fashion.images(config, epochs=4.0, batch_size=64)
    config.views.ops = ("random_resized_crop", "flip")
    config.model.update(widths=(32, 64, 128), norm="layer")
    config.method.update(patch_size=12, stride=4, first_step=3, last_step=4)
    config.nets.context.update(depth=2, dim=64, target_dim=64, scale=0.3)
