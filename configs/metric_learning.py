"""Metric learning: thirteen losses that bring examples of a class together

    ssl_jax train --config=metric_learning:VARIANT --workdir=runs/metric_learning
    ssl_jax train --config=metric_learning:digits --config.method.loss=arcface

Variants:
  digits        8x8 handwritten digits that come with scikit-learn: half a minute on two CPU cores
  small_shapes  generated 32x32 images in colour: two minutes on two CPU cores
  fashion       Fashion-MNIST, 10,000 photos of 28x28, grey: minutes on two CPU cores
  cub200        200 species of birds, Wah et al. 2011: 100 to train on, 100 to retrieve
  cars196       196 models of cars, Krause et al. 2013: 98 and 98
  sop           22,634 online products, Song et al. 2016
  market1501    people seen by six cameras, Zheng et al. 2015; batches, loss and length of Hermans
                et al. 2017, https://arxiv.org/abs/1703.07737
  faces         a folder of images for each identity; loss, batches and length of ArcFace, Deng et
                al. 2019, https://arxiv.org/abs/1801.07698

The two small ones train on half of the classes, too, and all are evaluated on classes that no loss
has seen. The last five need the place of the files, --config.data.name=cub200:/path, and are meant
to start from a pretrained encoder, --config.init_from=runs/simclr.

Published: ArcFace, LFW 99.83; Hermans et al., Market-1501 rank-1 84.92, mAP 69.14 (from an ImageNet
classifier).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common, fashion

VARIANTS = ("digits", "small_shapes", "fashion", "cub200", "cars196", "sop", "market1501", "faces")


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
    {
        "digits": _digits,
        "small_shapes": _small_shapes,
        "fashion": _fashion,
        "cub200": _cub200,
        "cars196": _cars196,
        "sop": _sop,
        "market1501": _market1501,
        "faces": _faces,
    }[variant](config)
    return config


def _digits(config: ConfigDict) -> None:
    """The encoder of simclr:digits, and its views, half of them without noise; digits 0 to 4.

    Longer runs fit these five digits and forget what tells the others apart: MAP@R of h on the
    digits 5 to 9 was 59.6% after 20 epochs, 55.5% after 120, and 56.1% untrained (triplet, one
    seed). Raw pixels have 62.1%.
    """
    common.digits(config, epochs=20.0, noise_p=0.5)
    _pk(config, classes=5, examples=32)
    config.data.classes = "train half"
    config.method.output_dim = 64


def _small_shapes(config: ConfigDict) -> None:
    """A small conv net on 2048 generated 32x32 images; classes are a shape and a hue.

    Every shape and every hue is in the training data, but not the combinations that are retrieved.
    """
    common.small_shapes(config)
    _pk(config, classes=8, examples=16)
    config.data.options.label = "combination"
    config.data.classes = "train half"
    config.method.output_dim = 64


def _cub200(config: ConfigDict) -> None:
    """Both splits of the first 100 species, a ResNet-50 at 224 pixels."""
    _photos(config, "cub200:", epochs=60.0)
    _pooled_halves(config)


def _cars196(config: ConfigDict) -> None:
    """Both splits of the first 98 models."""
    _photos(config, "cars196:", epochs=100.0)
    _pooled_halves(config)


def _sop(config: ConfigDict) -> None:
    """Products of 5 photos on average; those of the test split are others."""
    _photos(config, "sop:", epochs=60.0)
    config.eval.retrieval.ks = (1, 10, 100, 1000)


def _market1501(config: ConfigDict) -> None:
    """18 people with 4 photos, 25,000 steps, batch-hard triplets with a soft margin.

    The paper's images are 256x128; these are squares of 256. Its rate is constant for 15,000 steps
    and then falls exponentially to a thousandth.
    """
    _photos(config, "market1501:", epochs=0.0)
    _pk(config, classes=18, examples=4)
    config.epochs, config.steps = None, 25_000
    config.data.image_size = 256
    config.data.host_crops = ConfigDict({"global": dict(count=1, size=256, scale=(0.64, 1.0))})
    config.method.update(soft_margin=True, margin=0.0, l2_normalize=False, head="linear")
    config.optimizer.update(base_lr=3e-4, weight_decay=0.0, schedule="constant")
    config.eval.update(test_split="query")
    config.eval.retrieval.gallery = "gallery"


def _faces(config: ConfigDict) -> None:
    """ArcFace over all identities of the folder, 20 epochs of aligned faces of 112 pixels."""
    _photos(config, "faces:", epochs=20.0)
    config.batch_size = 512
    config.data.image_size = 112
    config.data.sampler = ConfigDict(dict(name="shuffle"))
    del config.data.host_crops
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.method.update(loss="arcface", head="norm", output_dim=512)
    config.optimizer.update(
        name="sgd", base_lr=0.1, lr_scaling="none", weight_decay=5e-4, warmup_epochs=0.0
    )
    config.eval.final_names = ("verification",)


def _photos(config: ConfigDict, name: str, *, epochs: float) -> None:
    """A ResNet-50 on photos, in batches of 32 classes with 4 examples."""
    common.imagenet(config, batch_size=128, epochs=epochs, crops=1, scale=(0.16, 1.0), name=name)
    _pk(config, classes=32, examples=4)
    config.model.update(name="resnet50")
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.optimizer.update(
        name="adamw", base_lr=1e-4, lr_scaling="none", weight_decay=1e-4, warmup_epochs=1.0
    )
    config.eval.update(test_split="test", features=("h", "z"), final_names=("retrieval",))


def _pooled_halves(config: ConfigDict) -> None:
    """Half of the classes of both splits to train on, the other half to retrieve."""
    config.data.update(split="all", classes="train half")
    config.eval.update(train_split="all", test_split="all")


def _pk(config: ConfigDict, *, classes: int, examples: int) -> None:
    """Batches of some classes with as many examples of each."""
    config.batch_size = classes * examples
    config.data.sampler = ConfigDict(dict(name="pk", examples_per_class=examples))


def _fashion(config: ConfigDict) -> None:
    """The net of simclr:fashion; the first five classes, and retrieval among the other five."""
    fashion.images(config, epochs=10.0)
    _pk(config, classes=5, examples=32)
    config.data.classes = "train half"
    config.method.output_dim = 64
