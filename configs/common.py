"""Pieces that the files in `configs/` share."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, nearest


def check_variant(config: str, variant: str, variants: Sequence[str]) -> None:
    """Raises `UserError` unless `variant` is one of the config's."""
    if variant not in variants:
        raise UserError(
            f"{config} has no variant {variant!r}; variants: {', '.join(variants)}."
            f"{nearest(variant, variants)}"
        )


def digits(config: ConfigDict, *, epochs: float = 120.0, noise_p: float = 1.0) -> None:
    """Data, encoder, views, optimizer and probes of every method's `digits` variant.

    Affine views of 16x16 with strong noise; no flip: a mirrored digit is another sign.

    Args:
      epochs: length of the run.
      noise_p: share of the views that have noise.
    """
    config.batch_size = 256
    config.epochs = epochs
    config.data.update(name="digits")
    config.model.update(name="convnet", widths=(16, 32, 64, 128))
    config.views = ConfigDict(
        dict(
            ops=("random_affine", "gaussian_noise"),
            random_affine=dict(
                size=16, degrees=15.0, translate=0.08, scale=(0.8, 1.25), shear=10.0
            ),
            gaussian_noise=dict(std=0.25, p=noise_p),
        )
    )
    config.optimizer.update(
        name="adamw", base_lr=3e-3, lr_scaling="none", weight_decay=1e-4, warmup_epochs=5.0
    )
    config.eval.update(every_epochs=30.0, batch_size=512, baselines=("pixels", "untrained"))
    config.checkpoint.every_epochs = 30.0


def table(config: ConfigDict) -> None:
    """Encoder, optimizer and probes for tables: SCARF's (Bahri et al. 2022, Sec. 4)."""
    config.batch_size = 128
    config.epochs = 200.0
    config.model.update(name="table_encoder")
    config.optimizer.update(
        name="adamw", base_lr=1e-3, lr_scaling="none", schedule="constant", weight_decay=0.0,
        warmup_epochs=0.0,
    )  # fmt: skip
    config.eval.baselines = ("columns", "pca", "untrained")
    config.eval.final_names = (*config.eval.final_names, "boosted_trees")


def small_shapes(config: ConfigDict, *, epochs: float = 60.0) -> None:
    """Data, encoder, views, optimizer and probes of `small_shapes` variants: colour on two cores.

    Args:
      epochs: length of the run.
    """
    digits(config, epochs=epochs)
    config.data.update(name="shapes", image_size=32)
    config.data.options = ConfigDict(dict(num_generated=2048))
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "color_jitter", "grayscale", "gaussian_blur"),
            random_resized_crop=dict(size=32, scale=(0.3, 1.0)),
            flip=dict(p=0.5),
            color_jitter=dict(strength=0.5, p=0.8),
            grayscale=dict(p=0.2),
            gaussian_blur=dict(kernel_size=3, p=0.5, sigma=(0.1, 2.0)),
        )
    )


def attentive(config: ConfigDict) -> None:
    """Adds the attentive probe to the last evaluation, with rates for a small training set.

    The default rates are for more steps than 1,150 digits give: the best was the highest.
    """
    config.eval.final_names = (*config.eval.final_names, "attentive")
    config.eval.attentive.update(
        learning_rates=(1e-2, 3e-2, 1e-1, 3e-1), weight_decays=(5e-4, 5e-2), min_steps=1000
    )


def digits_multi_crop(config: ConfigDict) -> None:
    """`digits` for multi-crop methods: two small views enlarge a part of the digit to 8x8."""
    digits(config, epochs=80.0)
    config.views.families = dict(
        local=dict(count=2, random_affine=dict(size=8, translate=0.2, scale=(1.1, 1.5)))
    )


def small_shapes_multi_crop(config: ConfigDict) -> None:
    """`small_shapes` for multi-crop methods: two small crops of 16x16."""
    small_shapes(config)
    config.views.families = dict(
        local=dict(count=2, random_resized_crop=dict(size=16, scale=(0.05, 0.3)))
    )


def imagenet(
    config: ConfigDict,
    *,
    batch_size: int,
    epochs: float | None,
    crops: int = 2,
    scale: tuple[float, float] = (0.08, 1.0),
    name: str = "tfds:imagenet2012",
    eval_every: float = 10.0,
    save_every: float = 1.0,
    log_every: int = 50,
) -> None:
    """Data, length, probes and saves of paper-scale variants; the host cuts crops of 224 pixels.

    Args:
      batch_size: global.
      epochs: length of the run; None leaves it to the caller.
      crops: of each image.
      scale: smallest and largest area of a crop, as a fraction of the image's.
      name: the data set.
      eval_every, save_every: epochs between evaluations, and between checkpoints.
      log_every: steps between rows of metrics.
    """
    config.batch_size = batch_size
    if epochs is not None:
        config.epochs = epochs
    config.dtype = "bfloat16"
    config.data.update(name=name, image_size=224, workers=16, prefetch=2)
    config.data.host_crops = ConfigDict({"global": dict(count=crops, scale=scale)})
    config.eval.update(
        test_split="validation", center=0.875, batch_size=1024, every_epochs=eval_every
    )
    config.eval.linear.num_l2 = 6
    config.log.every_steps = log_every
    config.checkpoint.every_epochs = save_every


def cifar10(
    config: ConfigDict, *, batch_size: int, epochs: float, eval_every: float = 20.0
) -> None:
    """Data, length, probes and saves of `cifar10` variants.

    Args:
      batch_size: global.
      epochs: length of the run.
      eval_every: epochs between evaluations.
    """
    config.batch_size = batch_size
    config.epochs = epochs
    config.dtype = "bfloat16"
    config.data.update(name="tfds:cifar10", image_size=32)
    config.eval.update(every_epochs=eval_every, batch_size=1000)
    config.checkpoint.every_epochs = 10.0


# The mean and standard deviation of CIFAR-10 that its released recipes use, [0, 1] by channel.
CIFAR10_NORMALIZE = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def moco_v1_views() -> ConfigDict:
    """Views behind host crops, as in the released codes of InstDisc and MoCo v1."""
    return ConfigDict(
        dict(
            ops=("grayscale", "color_jitter", "flip", "normalize"),
            grayscale=dict(p=0.2),
            color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, p=1.0),
            flip=dict(p=0.5),
        )
    )


def moco_v2_views() -> ConfigDict:
    """Views behind host crops, as in the released codes of MoCo v2 and SimSiam."""
    return ConfigDict(
        dict(
            ops=("color_jitter", "grayscale", "gaussian_blur", "flip", "normalize"),
            color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            grayscale=dict(p=0.2),
            gaussian_blur=dict(p=0.5, sigma=(0.1, 2.0)),
            flip=dict(p=0.5),
        )
    )


def simclr_views() -> ConfigDict:
    """Views behind host crops, as in SimCLR (Chen et al. 2020, App. A)."""
    return ConfigDict(
        dict(
            ops=("flip", "color_jitter", "grayscale", "gaussian_blur"),
            flip=dict(p=0.5),
            color_jitter=dict(strength=1.0, p=0.8),
            grayscale=dict(p=0.2),
            gaussian_blur=dict(p=0.5, sigma=(0.1, 2.0)),
        )
    )


def swav_imagenet(
    config: ConfigDict,
    *,
    batch_size: int,
    epochs: float,
    scale: tuple[float, float] = (0.14, 1.0),
    count: int = 6,
) -> None:
    """Data, views, encoder and optimizer of SwAV's and DeepCluster v2's released recipes.

    Args:
      batch_size: global.
      epochs: length of the run.
      scale: smallest and largest area of the two large crops, as a fraction of the image's.
      count: small crops of each image.
    """
    imagenet(config, batch_size=batch_size, epochs=epochs, scale=scale)
    config.model.update(name="resnet50")
    # The released code divides by these; ImageNet's usual standard deviation is (.229, .224, .225).
    statistics = dict(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
    config.views = ConfigDict(
        dict(
            ops=("flip", "color_jitter", "grayscale", "gaussian_blur", "normalize"),
            flip=dict(p=0.5),
            color_jitter=dict(strength=1.0, p=0.8),
            grayscale=dict(p=0.2),
            gaussian_blur=dict(p=0.5, sigma=(0.1, 2.0)),
            normalize=statistics,
        )
    )
    if count:
        config.data.host_crops.local = dict(count=count, size=96, scale=(0.05, 0.14))
        config.views.families = dict(local=dict(count=count))
    swav_optimizer(config)


def swav_cifar10(config: ConfigDict) -> None:
    """SwAV's and DeepCluster v2's recipe for 32x32 images; not in the paper.

    Batches of 256, 4 small crops, no blur, 300 prototypes, ResNet-18.
    """
    cifar10(config, batch_size=256, epochs=300.0)
    config.method.update(num_prototypes=300, hidden_dim=2048)
    config.model.update(name="resnet18", stem="cifar")
    config.views = byol_cifar10_views()
    config.views.random_resized_crop.scale = (0.2, 1.0)
    config.views.families = dict(
        local=dict(count=4, random_resized_crop=dict(size=16, scale=(0.05, 0.2)))
    )
    swav_optimizer(config)
    config.optimizer.update(base_lr=0.6, warmup_epochs=0.0)


def swav_optimizer(config: ConfigDict) -> None:
    """LARS for all parameters, biases and norms included, as SwAV's released code calls LARC."""
    config.optimizer.update(
        name="lars",
        base_lr=0.3,
        lr_scaling="linear",
        final_lr_factor=1e-3,
        weight_decay=1e-6,
        warmup_epochs=10.0,
        warmup_start=1 / 16,
        momentum_order="lr_outside",
        exclude="",
    )


def byol_views(**color_jitter: object) -> ConfigDict:
    """The two kinds of views of BYOL (Grill et al. 2020, App. B), behind host crops.

    Args:
      **color_jitter: further options of `color_jitter`.
    """
    jitter = dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8, **color_jitter)
    return ConfigDict(
        dict(
            ops=("flip", "color_jitter", "grayscale", "gaussian_blur", "solarize", "normalize"),
            flip=dict(p=0.5),
            color_jitter=jitter,
            grayscale=dict(p=0.2),
            gaussian_blur=dict(p=1.0, sigma=(0.1, 2.0)),
            solarize=dict(p=0.0, threshold=0.5),
            overrides={"1": dict(gaussian_blur=dict(p=0.1), solarize=dict(p=0.2))},
        )
    )


def byol_cifar10_views() -> ConfigDict:
    """BYOL's two kinds of views at 32 pixels, without blur."""
    return ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "color_jitter", "grayscale", "solarize"),
            random_resized_crop=dict(size=32, scale=(0.08, 1.0)),
            flip=dict(p=0.5),
            color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
            grayscale=dict(p=0.2),
            solarize=dict(p=0.0),
            overrides={"1": dict(solarize=dict(p=0.2))},
        )
    )


def dino_imagenet(
    config: ConfigDict,
    batch_size: int,
    epochs: float,
    *,
    large: tuple[float, float],
    small: tuple[float, float],
    count: int,
    size: int = 96,
) -> None:
    """Data and views of DINO's, iBOT's and DINOv2's recipes; the host cuts crops.

    Args:
      batch_size: global.
      epochs: length of the run.
      large: smallest and largest area of the two large crops, as a fraction of the image's.
      small: the same of the small ones.
      count: small crops of each image.
      size: side of the small crops, pixels.
    """
    imagenet(config, batch_size=batch_size, epochs=epochs, scale=large)
    config.data.host_crops.local = dict(count=count, size=size, scale=small)
    config.views = byol_views()
    config.views.families = dict(local=dict(count=count, gaussian_blur=dict(p=0.5)))
    config.eval.knn.k = 20


def dino_vit(
    config: ConfigDict,
    name: str,
    *,
    base_lr: float,
    last_lr: float,
    clip: float,
    frozen_epochs: float,
) -> None:
    """Encoder and optimizer of DINO's and iBOT's ViTs.

    Args:
      name: of the encoder.
      base_lr: peak learning rate of a batch of 256.
      last_lr: learning rate at the end.
      clip: largest norm of a tensor's gradient; 0: no clipping.
      frozen_epochs: epochs in which the prototypes are frozen.
    """
    config.model.update(name=name, kernel_init="normal", drop_path=0.1, position_resize="dino")
    config.optimizer.update(
        name="adamw",
        base_lr=base_lr,
        lr_scaling="linear",
        final_lr_factor=last_lr / (base_lr * config.batch_size / 256),
        warmup_epochs=10.0,
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip=dict(norm=clip, per="tensor"),
        groups=dict(last_layer=dict(frozen_epochs=frozen_epochs)),
    )


def dino_cifar10(config: ConfigDict) -> None:
    """The released optimizer and views of DINO for images of 32x32, without blur; not in the paper.

    A ViT-Ti with patches of 4 sees 64 patches of a large crop and 16 of a small one.
    """
    cifar10(config, batch_size=512, epochs=300.0)
    config.method.update(teacher_temperature=0.07, temperature_warmup_epochs=30)
    config.views = byol_cifar10_views()
    config.views.random_resized_crop.scale = (0.4, 1.0)
    config.views.families = dict(
        local=dict(count=8, random_resized_crop=dict(size=16, scale=(0.1, 0.4)))
    )
    dino_vit(config, "vit_ti16", base_lr=5e-4, last_lr=1e-6, clip=3.0, frozen_epochs=1.0)
    config.model.patch_size = 4


def small_masked_vit(config: ConfigDict, *, patch_size: int) -> None:
    """Encoder, head and optimizer of iBOT's and DINOv2's small variants: a ViT on two cores.

    Class tokens of a small untrained ViT are nearly the same for all images. Without BatchNorm in
    the head the teacher's targets of views stayed uniform on digits (entropy 4.84 of 4.85 nats
    after ten epochs), while patches were told by their positions alone. With it, a rate of 1e-3 and
    a decay of 0.98 of the teacher twelve epochs taught nothing yet. With 3e-3, 0.95, a short
    warm-up and positions as large as the patches nine epochs raised accuracy with one label a class
    from 45 to 59% and kNN from 71 to 77% (train[80%:], one seed, learned positions of N(0, 0.6)).

    Args:
      patch_size: side of a patch, pixels.
    """
    del config.model.widths
    config.model.update(
        name="vit_ti16", patch_size=patch_size, dim=64, depth=4, num_heads=4, kernel_init="xavier",
        positions="sincos", mask_token=True,
    )  # fmt: skip
    config.batch_size = 64
    config.method.update(
        num_prototypes=128,
        hidden_dim=256,
        output_dim=64,
        head_batch_norm=True,
        teacher_momentum=0.95,
    )
    config.optimizer.update(
        base_lr=3e-3,
        warmup_epochs=2.0,
        weight_decay=0.04,
        clip=dict(norm=3.0, per="tensor"),
        groups=dict(last_layer=dict(frozen_epochs=1.0)),
    )


def speech(config: ConfigDict, *, epochs: float = 12.0) -> None:
    """Data, a small encoder, optimizer and probes of `speech` variants: minutes on two cores.

    Args:
      epochs: length of the run.
    """
    config.batch_size = 16
    config.epochs = epochs
    config.data.update(name="speech")
    config.data.options = ConfigDict(dict(window=10_240))
    config.model.update(name="conv_gru", channels=64, context_dim=96, norm="channel")
    config.optimizer.update(
        name="adamw", base_lr=1e-3, lr_scaling="none", weight_decay=1e-4, warmup_epochs=1.0
    )
    config.eval.update(every_epochs=6.0, batch_size=64, max_train_examples=400)
    config.checkpoint.every_epochs = 6.0


def frame_probes(config: ConfigDict, *, phones: bool = True) -> None:
    """Probes of the frames of audio: linear and with a hidden layer, of phones and of speakers.

    Args:
      phones: whether the data have phones.
    """
    names = ("phone", "phone_mlp", "speaker") if phones else ("speaker",)
    for name in names:
        kind = "mlp" if name.endswith("_mlp") else "linear"
        config.eval[name] = dict(
            evaluation=kind, target=name.removesuffix("_mlp"), feature="frames"
        )
        config.eval[name].update(dict(num_l2=4) if kind == "linear" else dict(max_epochs=30))
    config.eval.update(names=("knn",), final_names=names, baselines=("mfcc", "untrained"))


def pydoc(config: ConfigDict) -> None:
    """Data, length, optimizer and evaluation of a language model on Python's own documentation.

    Short rows and small batches: what counts on 0.4 million tokens is the number of updates.
    """
    config.batch_size = 32
    config.epochs = 12.0
    config.data.name = "pydoc"
    config.data.options = ConfigDict(dict(vocab_size=4096, sequence_length=64))
    config.model.dropout = 0.0
    config.optimizer.update(
        name="adamw",
        base_lr=2e-3,
        lr_scaling="none",
        schedule="linear",
        warmup_epochs=1.0,
        weight_decay=0.01,
        clip=dict(norm=1.0),
    )
    config.eval.update(every_epochs=3.0, online=False)
    config.checkpoint.update(every_epochs=3.0, best_metric="eval/held_out/accuracy")


def next_token(config: ConfigDict) -> None:
    """Selects checkpoints of models of the next token by their loss."""
    config.checkpoint.update(best_metric="eval/held_out/loss", best_mode="min")


def text_at_scale(config: ConfigDict) -> None:
    """Logging, evaluation and saves of runs of weeks; 1% of the documents is held out."""
    config.data.split, config.eval.test_split = "train[1%:]", "train[:1%]"
    config.eval.update(every_epochs=0.0, online=False)
    config.eval.held_out.max_examples = 4096
    config.checkpoint.update(every_steps=5000, best_metric="eval/held_out/accuracy")
    config.log.every_steps = 100
