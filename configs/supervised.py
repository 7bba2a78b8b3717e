"""Supervised learning: baselines, fine-tuning, few labels, a linear probe with augmentation

    ssl_jax train --config=supervised:VARIANT --workdir=runs/supervised

Variants:
  digits               8x8 handwritten digits with all their labels: half a minute on two CPU cores
  small_shapes         generated 32x32 images in colour: a minute on two CPU cores
  fashion              Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cifar10              ResNet-18 with a 3x3 stem from scratch (needs tfds:cifar10 prepared)
  imagenet             ResNet-50 from scratch, Goyal et al. 2017, https://arxiv.org/abs/1706.02677
  alexnet              AlexNet from scratch, Krizhevsky et al. 2012, https://doi.org/10.1145/3065386
  finetune             SimCLR's fine-tuning on 1% of ImageNet's labels (App. B.5)
  finetune_v2          SimCLR v2's fine-tuning, from the first layer of the projection head
  finetune_mae_b       MAE's fine-tuning of a ViT-B/16 on all of ImageNet: RandAugment, random
                       erasing, mixup, cutmix, layer-wise learning rates
  finetune_mae_l       the same with a ViT-L/16
  finetune_mae_h       the same with a ViT-H/14
  finetune_mae_digits  its parts at a small scale, on the encoder of mae:digits
  linear               SimCLR's linear probe: a classifier on a frozen ResNet-50, with random crops
  linear_moco          the linear probe of MoCo v1 and v2
  linear_moco_v3       the linear probe of MoCo v3
  linear_moco_v3_vit   the same with a ViT-S/16; for a ViT-B/16: --config.model.name=vit_b16
  linear_lars          the linear probe of SimSiam
  linear_byol          the linear probe of BYOL
  linear_barlow_twins  the linear probe of Barlow Twins
  linear_vicreg        the linear probe of VICReg
  linear_mae           the linear probe of MAE, with a ViT-B/16; for a ViT-L/16:
                       --config.model.name=vit_l16
  linear_digits        a linear probe on the encoder of a `digits` variant
  speech               the phone of every frame of synthetic speech, by the net of cpc_audio:speech
  speech_speakers      the speaker of every frame
  table                rows of a table, --config.data.name=table:/path/to/rows.csv: the encoder of
                       simclr:table, from scratch or fine-tuned (--config.init_from)

All but digits, cifar10, imagenet, alexnet, table and those of speech start from a pretrained run:
--config.init_from=runs/simclr. The sweep sweeps/linear chooses the learning rate of a linear probe.

--config.data.labelled_fraction=0.01 trains on 1% of the labels, in every variant.

Published (ImageNet, top-1): supervised ResNet-50 76.4 (Goyal et al., Table 1); AlexNet 59.3, with
the mean of ten views of an image (Krizhevsky et al., Table 2); SimCLR fine-tuned
with 1% and 10% of the labels 48.3 and 65.6 (Table 7); SimCLR v2 57.9 and 68.4; MAE fine-tuned 83.6
(ViT-B), 85.9 (ViT-L) and 86.9 (ViT-H). Scores of linear probes are with their methods.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = (
    "digits",
    "small_shapes",
    "fashion",
    "cifar10",
    "imagenet",
    "alexnet",
    "finetune",
    "finetune_v2",
    "finetune_mae_b",
    "finetune_mae_l",
    "finetune_mae_h",
    "finetune_mae_digits",
    "linear",
    "linear_moco",
    "linear_moco_v3",
    "linear_moco_v3_vit",
    "linear_lars",
    "linear_byol",
    "linear_barlow_twins",
    "linear_vicreg",
    "linear_mae",
    "linear_digits",
    "speech",
    "speech_speakers",
    "table",
)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("supervised", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="supervised",
            label_smoothing=0.0,
            projector_layers=0,  # of the pretraining's projection head, before the classifier
            hidden_dim=placeholder(int),  # their width; unset: that of h
            zero_init_head=False,
            freeze_encoder=False,
        )
    )
    # While training the test split says enough, and the train split need not be encoded.
    config.eval.update(names=("accuracy",), final_names=("accuracy", *config.eval.final_names))
    config.checkpoint.best_metric = "eval/accuracy/top1"
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cifar10": _cifar10,
        "imagenet": _imagenet,
        "alexnet": _alexnet,
        "finetune": _finetune,
        "finetune_v2": _finetune_v2,
        "finetune_mae_b": _finetune_mae_b,
        "finetune_mae_l": _finetune_mae_l,
        "finetune_mae_h": _finetune_mae_h,
        "finetune_mae_digits": _finetune_mae_digits,
        "linear": _linear,
        "linear_moco": _linear_moco,
        "linear_moco_v3": _linear_moco_v3,
        "linear_moco_v3_vit": _linear_moco_v3_vit,
        "linear_lars": _linear_lars,
        "linear_byol": _linear_byol,
        "linear_barlow_twins": _linear_barlow_twins,
        "linear_vicreg": _linear_vicreg,
        "linear_mae": _linear_mae,
        "linear_digits": _linear_digits,
        "speech": _speech,
        "speech_speakers": _speech_speakers,
        "table": _table,
    }[variant](config)
    return config


def _table(config: ConfigDict) -> None:
    """The rows as they are, without corruption."""
    common.table(config)
    config.epochs = 50.0
    config.views = ConfigDict(dict(ops=()))
    config.eval.baselines = ("columns",)


def _speech(config: ConfigDict) -> None:
    """The phone of every frame, by the net of cpc_audio:speech; probes read the same frames."""
    common.speech(config)
    common.frame_probes(config)
    config.eval.baselines = ()
    config.eval.final_names = ("phone",)
    config.checkpoint.best_metric = "eval/knn/top1"
    config.method.update(frames="phone", num_frame_classes=16)


def _speech_speakers(config: ConfigDict) -> None:
    """The same with the speaker of every frame."""
    _speech(config)
    config.eval.final_names = ("speaker",)
    config.method.update(frames="speaker", num_frame_classes=16)


def _digits(config: ConfigDict) -> None:
    """The encoder of simclr:digits, and its views, half of them without noise.

    Evaluation uses images without noise: accuracy on train[80%:] was 98.6% when every training view
    had noise, and 99.7% when half of them had.
    """
    common.digits(config, epochs=60.0, noise_p=0.5)


def _small_shapes(config: ConfigDict) -> None:
    """The net and views of simclr:small_shapes with the shape as label; one view an image."""
    common.small_shapes(config)


def _cifar10(config: ConfigDict) -> None:
    """A common recipe without a paper: momentum 0.9, cosine schedule, 200 epochs."""
    common.cifar10(config, batch_size=128, epochs=200.0)
    config.model.update(name="resnet18", stem="cifar", kernel_init="he_fan_out")
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip", "normalize"),
            random_resized_crop=dict(size=32, scale=(0.5, 1.0)),
            flip=dict(p=0.5),
            normalize=dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        )
    )
    config.optimizer.update(
        name="sgd",
        base_lr=0.1,
        lr_scaling="none",
        nesterov=True,
        weight_decay=5e-4,
        warmup_epochs=5.0,
    )


def _imagenet(config: ConfigDict) -> None:
    """Goyal et al., section 5.1: 90 epochs, lr 0.1 a 256 images, divided by 10 at 30, 60 and 80.

    Published: 76.4 top-1 at batch 256, and the same to 0.2 up to batch 8192 (Table 1, Fig. 1).
    """
    _imagenet_images(config, "tfds:imagenet2012", epochs=90.0, batch_size=4096)
    config.model.update(name="resnet50", kernel_init="he_fan_out")
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(
        name="sgd",
        base_lr=0.1,
        lr_scaling="linear",
        nesterov=True,
        weight_decay=1e-4,
        warmup_epochs=5.0,
        schedule="step",
        milestones=(30 / 90, 60 / 90, 80 / 90),
        decay_factor=0.1,
    )


def _alexnet(config: ConfigDict) -> None:
    """Krizhevsky et al., sections 3 to 5, with the schedule of CaffeNet: 90 epochs of 256 images.

    h is fc7, whose nearest neighbours the paper shows (Figure 4). It differs in four things: the
    normalisation follows the pooling, weights start as He et al. 2015 propose, random crops have
    the sizes of ResNet's recipe, and there is no noise along the principal components of colour.
    """
    _imagenet_images(config, "tfds:imagenet2012", epochs=90.0, batch_size=256)
    config.model.update(
        name="alexnet", widths=(96, 256, 384, 384, 256), norm="lrn", groups=2,
        fully_connected=(4096, 4096), dropout=0.5,
    )  # fmt: skip
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(
        name="sgd",
        base_lr=0.01,
        lr_scaling="none",
        weight_decay=5e-4,
        warmup_epochs=0.0,
        schedule="step",
        milestones=(100 / 450, 200 / 450, 300 / 450, 400 / 450),  # in thousands of steps
        decay_factor=0.1,
    )


def _finetune(config: ConfigDict) -> None:
    """SimCLR, App. B.5: 60 epochs on 1% of the labels, 30 on 10% (imagenet2012_subset/10pct).

    Published: 48.3 top-1 with 1%, 65.6 with 10% of the labels, ResNet-50 (Table 7).
    """
    _imagenet_images(config, "tfds:imagenet2012_subset/1pct", epochs=60.0, batch_size=4096)
    config.model.update(name="resnet50")
    config.optimizer.update(
        name="sgd",
        base_lr=0.05,
        lr_scaling="linear",
        nesterov=True,
        weight_decay=0.0,
        warmup_epochs=0.0,
    )


def _finetune_v2(config: ConfigDict) -> None:
    """The released command of SimCLR v2: LARS, without adaptation of the classifier's rate.

    Published: 57.9 top-1 with 1%, 68.4 with 10% of the labels (30 epochs), ResNet-50; 64.5 and 72.1
    with selective kernels (Table 1).
    """
    _imagenet_images(config, "tfds:imagenet2012_subset/1pct", epochs=60.0, batch_size=1024)
    config.model.update(name="resnet50")
    config.method.update(projector_layers=1, zero_init_head=True)
    config.optimizer.update(
        name="lars",
        base_lr=0.005,
        lr_scaling="sqrt",
        weight_decay=0.0,
        warmup_epochs=0.0,
        exclude=r"(bias|scale)$|^head/",
    )


def _finetune_mae_b(config: ConfigDict) -> None:
    """MAE, Table 9, and the released command: 100 epochs. Published: 83.6 top-1.

    It differs in two things. h is the mean of the normalised patch tokens; the released code
    normalises their mean, with a new LayerNorm. The classifier starts from zeros; there from
    N(0, 2e-5^2).
    """
    _finetune_mae(config, epochs=100.0, base_lr=5e-4, decay=0.65)
    config.model.update(name="vit_b16", drop_path=0.1)


def _finetune_mae_l(config: ConfigDict) -> None:
    """The released command for ViT-L: 50 epochs at twice the rate. Published: 85.9 top-1."""
    _finetune_mae(config, epochs=50.0, base_lr=1e-3, decay=0.75)
    config.model.update(name="vit_l16", drop_path=0.2)


def _finetune_mae_h(config: ConfigDict) -> None:
    """The released command for ViT-H. Published: 86.9 top-1."""
    _finetune_mae(config, epochs=50.0, base_lr=1e-3, decay=0.75)
    config.model.update(name="vit_h14", drop_path=0.3)


def _finetune_mae(config: ConfigDict, *, epochs: float, base_lr: float, decay: float) -> None:
    """What the three sizes share; the learning rates decay from the last layer to the first."""
    batch_size = 1024
    _imagenet_images(config, "tfds:imagenet2012", epochs=epochs, batch_size=batch_size)
    config.model.update(positions="sincos", pool="mean")
    config.method.update(
        label_smoothing=0.1, zero_init_head=True, mix=ConfigDict(dict(mixup=0.8, cutmix=1.0))
    )
    config.views = ConfigDict(
        dict(
            ops=("flip", "rand_augment", "normalize", "random_erasing"),
            flip=dict(p=0.5),
            rand_augment=dict(magnitude=9.0, magnitude_std=0.5, fill=(0.485, 0.456, 0.406)),
            random_erasing=dict(p=0.25, fill="pixel"),
        )
    )
    peak = base_lr * batch_size / 256
    _mae_adamw(config, base_lr=base_lr, lr_scaling="linear", final_lr_factor=1e-6 / peak)
    config.optimizer.groups.layerwise.decay = decay
    config.eval.online = False  # a probe would learn mixed images with one of their labels


def _mae_adamw(config: ConfigDict, **options: object) -> None:
    config.optimizer.update(
        name="adamw",
        weight_decay=0.05,
        warmup_epochs=5.0,
        exclude=r"(bias|scale|cls_token)$",
        groups=ConfigDict(dict(layerwise=dict(decay=0.65))),
        **options,
    )


def _finetune_mae_digits(config: ConfigDict) -> None:
    """The net of mae:digits; without init_from it trains from scratch.

    Milder views than ImageNet's: a digit is 8 pixels high. Operations that invert or equalise are
    left out, as the ink is bright in all images.
    """
    common.digits(config, epochs=60.0)
    del config.model.widths
    config.model.update(
        name="vit_ti16", patch_size=4, dim=64, depth=4, num_heads=4, positions="sincos",
        pool="mean", drop_path=0.1,
    )  # fmt: skip
    config.method.update(
        label_smoothing=0.1, zero_init_head=True, mix=ConfigDict(dict(mixup=0.8, cutmix=1.0))
    )
    config.views.ops = ("random_affine", "rand_augment", "random_erasing")
    config.views.rand_augment = dict(
        operations=("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "sharpness"),
        magnitude=3.0,
        fill=(0.0,),
    )
    config.views.random_erasing = dict(p=0.25, area=(0.02, 0.1), fill="zero")
    _mae_adamw(config, base_lr=1e-3, lr_scaling="none")
    config.optimizer.groups.layerwise.decay = 0.75
    config.eval.update(online=False, baselines=())


def _linear(config: ConfigDict) -> None:
    """SimCLR, App. B.6. Published: 69.3 top-1 after 1000 epochs of pretraining, ResNet-50."""
    _linear_imagenet(config, epochs=90.0, batch_size=4096)
    config.optimizer.update(base_lr=0.1, lr_scaling="linear", nesterov=True)


def _linear_moco(config: ConfigDict) -> None:
    """MoCo, section 4.1: the best setting of its grid search; v2 is measured with it too.

    Published, ResNet-50: 60.6 top-1 (v1, 200 epochs); 67.5 and 71.1 (v2, 200 and 800 epochs).
    """
    _linear_imagenet(config, epochs=100.0, batch_size=256)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(
        base_lr=30.0,
        lr_scaling="none",
        schedule="step",
        milestones=(0.6, 0.8),
        decay_factor=0.1,
    )


def _linear_moco_v3(config: ConfigDict) -> None:
    """MoCo v3's released code. Published, ResNet-50: 68.9, 72.8, 74.6 (100, 300, 1000 epochs)."""
    _linear_imagenet(config, epochs=90.0, batch_size=1024)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(base_lr=0.1, lr_scaling="linear")


def _linear_moco_v3_vit(config: ConfigDict) -> None:
    """The same at 30 times the rate. Published, 300 epochs: 73.2 (ViT-S), 76.7 (ViT-B)."""
    _linear_moco_v3(config)
    config.model.update(name="vit_s16", positions="sincos_row_first", num_heads=12)
    config.optimizer.base_lr = 3.0


def _linear_lars(config: ConfigDict) -> None:
    """SimSiam's released code, except that the bias has no LARS adaptation here.

    Published, ResNet-50: 68.1 top-1 after 100 epochs of pretraining.
    """
    _linear_imagenet(config, epochs=90.0, batch_size=4096)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(
        name="lars",
        base_lr=0.1,
        lr_scaling="linear",
        momentum_order="lr_outside",  # it is torch's SGD that LARC hands its gradients to
    )


def _linear_byol(config: ConfigDict) -> None:
    """Paper, App. C, and the released code. Published, ResNet-50: 74.3 top-1 (1000 epochs)."""
    _linear_imagenet(config, epochs=80.0, batch_size=1024)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(base_lr=0.2, lr_scaling="linear", nesterov=True)


def _linear_barlow_twins(config: ConfigDict) -> None:
    """The released code, which decays the bias too. Published, ResNet-50: 73.2 top-1."""
    _linear_imagenet(config, epochs=100.0, batch_size=256)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(base_lr=0.3, lr_scaling="none", weight_decay=1e-6, exclude="")


def _linear_vicreg(config: ConfigDict) -> None:
    """The same at the rate of VICReg's released command. Published, ResNet-50: 73.2 top-1."""
    _linear_barlow_twins(config)
    config.optimizer.base_lr = 0.02


def _linear_mae(config: ConfigDict) -> None:
    """MAE, Table 10, and the released command: LARS on a normalised class token.

    Published, 1600 epochs: 68.0 top-1 (ViT-B), 75.8 (ViT-L), 76.6 (ViT-H).
    """
    _linear_imagenet(config, epochs=90.0, batch_size=16384)
    config.model.update(name="vit_b16", positions="sincos")
    config.method.update(normalize_head=True)
    config.views.ops = ("flip", "normalize")
    config.optimizer.update(
        name="lars",
        base_lr=0.1,
        lr_scaling="linear",
        warmup_epochs=10.0,
        momentum_order="lr_outside",
    )


def _linear_digits(config: ConfigDict) -> None:
    """The views of pretraining, half of them without noise."""
    common.digits(config, epochs=60.0, noise_p=0.5)
    _linear_probe(config)
    config.optimizer.update(base_lr=0.3, lr_scaling="none", nesterov=True)
    config.eval.update(every_epochs=0.0, baselines=())


def _linear_imagenet(config: ConfigDict, *, epochs: float, batch_size: int) -> None:
    _imagenet_images(config, "tfds:imagenet2012", epochs=epochs, batch_size=batch_size)
    config.model.update(name="resnet50")
    _linear_probe(config)


def _linear_probe(config: ConfigDict) -> None:
    """SGD with momentum on the classifier alone: no decay, no warm-up, a cosine."""
    config.method.update(freeze_encoder=True)
    config.optimizer.update(name="sgd", weight_decay=0.0, warmup_epochs=0.0)
    # The encoder is what it was: only the classifier is new.
    config.eval.update(final_names=("accuracy",), online=False)


def _imagenet_images(config: ConfigDict, name: str, *, epochs: float, batch_size: int) -> None:
    """Random crops made on the host, and flips."""
    common.imagenet(config, batch_size=batch_size, epochs=epochs, crops=1, name=name)
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5), normalize=dict()))


def _fashion(config: ConfigDict) -> None:
    """The net and views of simclr:fashion with all 10,000 labels; one view an image."""
    fashion.images(config, epochs=20.0)
