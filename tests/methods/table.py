"""One row a method: the config that makes it small enough for the shared tests."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from tests.methods import labelled_texts

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
BATCH = 16
# A short text that is always there, in a vocabulary of its own.
TEXT_OPTIONS = dict(
    tokenizer="wordpiece",
    vocab_size=300,
    sequence_length=32,
    cache_dir=os.path.join(tempfile.gettempdir(), "ssl_jax_test_text"),
)
TEXT = {
    "data.name": f"text:{CONFIGS.parent}/LICENSE",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.max_length": 32,
    "model.dropout": 0.1,
    "optimizer.name": "sgd",
    "optimizer.base_lr": 1e-3,
    "eval.online": False,
}
WORDS = {
    "data.name": TEXT["data.name"],
    "data.num_examples": None,
    "data.options": ConfigDict({**TEXT_OPTIONS, "tokenizer": "words", "min_count": 2}),
    "model.dim": 8,
    "method.window": 3,
    "steps": 100,
}
# What most rows do not test, in few operations, so that a step compiles in half the time: SGD, no
# probe, and views that draw no random numbers. The row "simclr" has all that the config has; so has
# "dinov2", whose KoLeo term has huge gradients where images look alike, and "dino-vit", which is
# compared with it.
_QUICK = {"optimizer.name": "sgd", "eval.online": False, "steps": 100}
CONVNET = {"model.widths": (4, 8)}
# The whole image, enlarged; the second of two views is its middle.
VIEW = {
    **_QUICK,
    "views.ops": ("center_crop",),
    "views.center_crop.size": 16,
    "views.center_crop.fraction": 1.0,
}
VIEWS = {**VIEW, "views.overrides.1.center_crop.fraction": 0.7}
# 4x4 patches of an image.
CPC_IMAGES = {
    **VIEW,
    "views.center_crop.size": 20,
    "data.options.num_generated": 64,
    "model.widths": (4, 8),
    "method.patch_size": 8,
    "method.stride": 4,
    "views.families.patch.ops": ("drop_channels",),
    "method.first_step": 1,
    "method.last_step": 2,
    "nets.context.depth": 1,
    "nets.context.dim": 8,
    "nets.context.target_dim": 8,
    "nets.context.scale": 1.0,
}
# Four classes of four examples, as losses that compare the examples of a batch need them.
PK = {"data.sampler.examples_per_class": 4}
# And two small views of less.
CROPS = {
    **VIEWS,
    "views.families.local.count": 2,
    "views.families.local.center_crop.size": 8,
    "views.families.local.center_crop.fraction": 0.5,
    "views.families.local.overrides.1.center_crop.fraction": 0.4,
}
# Overrides for tests that watch such a row learn: the views, optimizer and stages of "simclr".
LEARNING = dict(
    views__ops=("random_affine", "gaussian_noise"),
    optimizer__name="adamw",
    model__widths=(4, 8, 8),
)
CPC_AUDIO = {
    **_QUICK,
    "data.options": ConfigDict(dict(num_generated=16, num_speakers=4, window=3_200)),
    "model.channels": 8,
    "model.context_dim": 8,
    "method.num_steps": 3,
}
# Texts with labels, all of whose examples are for training.
LABELLED = {
    **{key: value for key, value in TEXT.items() if key != "data.name"},
    "model.name": "bert_tiny",
    "model.attention_dropout": 0.0,
    "dtype": "float32",
    "data.split": "train",
    "data.num_examples": None,
    "data.num_classes": None,
    "eval.test_split": "train",
    "eval.validation_split": None,
    "eval.final_checkpoint": "last",
    "early_stopping.patience": 0,
    "steps": 100,
}
LABELLED_OPTIONS = dict(tokenizer="wordpiece", vocab_size=120, sequence_length=32)


@dataclasses.dataclass(frozen=True)
class Row:
    """A method under test.

    Attributes:
      config: "file.py:variant" below configs/.
      overrides: dotted key -> value, to make it tiny.
      untrained: regexes of parameters that are meant to get no gradient.
      slow: tested with the slow tests; another row covers most of the method.
      embeds: whether there is an embedding for the collapse monitor; a classifier has none.
      rounding: how far gradients, buffers and moving averages may be from those of another number
        of devices, beside the largest of the array or 1.
    """

    config: str
    overrides: dict[str, Any]
    untrained: tuple[str, ...] = ()
    embeds: bool = True
    slow: bool = False
    rounding: float = 2e-5

    def load(self, **more: Any) -> ConfigDict:
        """The tiny config; keyword arguments are further overrides, with __ for dots."""
        config = config_lib.load(f"{CONFIGS}/{self.config}")
        changes = {"batch_size": BATCH, "log.tensorboard": False, **self.overrides}
        changes |= {key.replace("__", "."): value for key, value in more.items()}
        config = config_lib.apply(config, changes)
        return config_lib.resolve(config, changes)


def _metric(loss: str, more: Mapping[str, Any] = types.MappingProxyType({})) -> Row:
    """A row of metric learning by another loss than that of "metric-triplet"."""
    overrides = {**CONVNET, **VIEW, **PK, "method.output_dim": 8, "method.loss": loss, **more}
    return Row("metric_learning.py:digits", overrides, slow=True, rounding=2e-4)


ROWS = {
    "simclr": Row(
        "simclr.py:digits",
        {"model.widths": (4, 8), "method.hidden_dim": 16, "method.output_dim": 8, "steps": 100},
    ),
    "simclr-table": Row(
        "simclr.py:breast_cancer",
        {
            "model.width": 8,
            "model.depth": 2,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "epochs": None,
            "steps": 100,
        },
    ),
    "simclr-blockwise": Row(
        "simclr.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.implementation": "blockwise",
            "method.block_size": 8,
        },
        slow=True,
    ),
    "simclr-margin-triplet": Row(
        "simclr.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.loss": "margin_triplet",
            "method.semi_hard": True,
        },
        slow=True,
    ),
    "simclr-linear-head": Row(
        "simclr.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.projector": "linear",
            "method.output_dim": 8,
            "method.l2_normalize": False,
        },
        slow=True,
    ),
    "instdisc": Row(
        "instdisc.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.loss": "nce",
            "method.num_negatives": 40,
            "method.output_dim": 8,
            "method.proximal": 0.5,
        },
    ),
    "instdisc-whole-bank": Row(
        "instdisc.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.loss": "softmax",
            "method.num_negatives": 0,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "metric-triplet": Row(
        "metric_learning.py:digits",
        {**CONVNET, **VIEW, **PK, "method.output_dim": 8},
        rounding=2e-4,
    ),
    "metric-pair": _metric("pair"),
    "metric-quadruplet": _metric("quadruplet"),
    "metric-n-pair": _metric("n_pair"),
    "metric-lifted": _metric("lifted_structured"),
    "metric-supcon": _metric("supcon", {"method.head": "norm"}),
    "metric-center": _metric("center"),
    "metric-sphereface": _metric("sphereface"),
    "metric-cosface": _metric("cosface"),
    "metric-arcface": _metric("arcface", {"method.head": "linear"}),
    "metric-subcenter": _metric("subcenter_arcface", {"method.clean_every_epochs": 0.02}),
    "metric-adacos": _metric("adacos"),
    "metric-adaptive": _metric("adaptive_margin"),
    "moco-v1": Row(
        "moco_v1.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.num_negatives": 48,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "moco-v2": Row(
        "moco_v2.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.num_negatives": 32,
            "method.bn_groups": None,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
        },
    ),
    "moco-end-to-end": Row(
        "moco_v1.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.dictionary": "end_to_end",
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "moco-bank": Row(
        "moco_v1.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.dictionary": "bank",
            "method.num_negatives": 40,
            "method.bn_groups": None,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "moco-v3": Row(
        "moco_v3.py:digits",
        {**CONVNET, **VIEWS, "method.hidden_dim": 16, "method.output_dim": 8},
        slow=True,
    ),
    "moco-v3-vit": Row(
        "moco_v3.py:digits",
        {
            "model.name": "vit_s16",
            "model.patch_size": 8,
            **VIEWS,
            "model.dim": 16,
            "model.depth": 2,
            "model.num_heads": 2,
            "model.positions": "sincos",
            "model.pool": "mean",  # SGD at a rate of 0.1 is chaotic on the class token
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.projector_layers": 3,
            "method.predictor_output_norm": "no_affine",
            "method.frozen": "^encoder/patch_embed/",
            "optimizer.groups": ConfigDict(dict(frozen=dict(base_lr=0.0))),
        },
        untrained=("^encoder/patch_embed/",),
        rounding=5e-4,
        slow=True,
    ),
    "byol": Row(
        "byol.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "optimizer.lr_scaling": "linear",
        },
        slow=True,
    ),
    "byol-no-predictor": Row(
        "byol.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.predictor": False,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "simsiam": Row(
        "simsiam.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.predictor_dim": 4,
        },
    ),
    "barlow-twins": Row(
        "barlow_twins.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 16,
            "optimizer.lr_scaling": "linear",
        },
        slow=True,
        rounding=2e-4,
    ),
    "vicreg": Row(
        "vicreg.py:digits",
        {**CONVNET, **VIEWS, "method.hidden_dim": 16, "method.output_dim": 8},
        slow=True,
        rounding=1e-4,
    ),
    "dino": Row(
        "dino.py:digits",
        {
            **CONVNET,
            **CROPS,
            "method.num_prototypes": 24,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
        },
        rounding=1e-4,
    ),
    "dino-vit": Row(
        "dino.py:digits",
        {
            "model.name": "vit_ti16",
            "model.patch_size": 4,
            "steps": 100,
            "model.dim": 16,
            "model.depth": 2,
            "model.num_heads": 2,
            "model.drop_path": 0.2,
            "method.num_prototypes": 24,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.unit_prototypes": False,
            "method.head_batch_norm": False,
        },
        slow=True,
    ),
    "ibot": Row(
        "ibot.py:digits",
        {
            "model.patch_size": 4,
            **CROPS,
            "model.dim": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "method.num_prototypes": 24,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "model.positions": "learned",
            "method.head_batch_norm": False,
        },
        slow=True,
    ),
    "dinov2": Row(
        "dinov2.py:digits",
        {
            "model.patch_size": 4,
            "steps": 100,
            "model.dim": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "method.num_prototypes": 24,
            "method.num_patch_prototypes": 20,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "model.positions": "learned",
            "method.head_batch_norm": False,
            "method.patch_output_dim": 6,
            "method.koleo_chunk": 8,
            "method.koleo_weight": 1e-4,  # the features of an untrained net are all alike
        },
        slow=True,
        rounding=2e-4,
    ),
    "swav": Row(
        "swav.py:digits",
        {
            **CONVNET,
            **CROPS,
            "method.num_prototypes": 24,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.queue_length": 16,
            "method.queue_start_epoch": 0,
            "optimizer.groups.prototypes.frozen_epochs": 0.0,
        },
    ),
    "deepcluster-v2": Row(
        "deepcluster_v2.py:digits",
        {
            **CONVNET,
            **CROPS,
            "method.num_prototypes": 24,
            "method.num_clusterings": 3,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "nnclr": Row(
        "nnclr.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.queue_length": 32,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.predictor_dim": 16,
        },
        slow=True,
        rounding=3e-4,
    ),
    "lejepa": Row(
        "lejepa.py:digits",
        {
            **CONVNET,
            **CROPS,
            "method.num_slices": 8,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
        },
        slow=True,
    ),
    "mae": Row(
        "mae.py:digits",
        {
            **VIEW,
            "method.mask_ratio": 0.75,
            "model.dim": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "nets.decoder.dim": 16,
            "nets.decoder.num_heads": 2,
        },
        embeds=False,
    ),
    "rotnet": Row(
        "rotnet.py:digits",
        {**CONVNET, **VIEW},
        embeds=False,
    ),
    "context-prediction": Row(
        "context_prediction.py:small_shapes",
        {
            "data.options.num_generated": 64,
            "model.widths": (4, 8),
            "method.code_dim": 8,
            "method.hidden_dims": (8, 8),
            "method.color": "drop",
            "method.downsample": 0.5,
            "method.smallest_side": 3,
            "steps": 100,
        },
        embeds=False,
        slow=True,
    ),
    "jigsaw": Row(
        "jigsaw.py:small_shapes",
        {
            "data.options.num_generated": 64,
            "model.widths": (4, 8),
            "method.num_permutations": 10,
            "method.code_dim": 8,
            "method.hidden_dims": (8,),
            "method.dropout": 0.1,
            "steps": 100,
        },
        embeds=False,
        slow=True,
        rounding=1e-4,
    ),
    "cpc-images": Row("cpc_images.py:small_shapes", CPC_IMAGES),
    "cpc-images-v2": Row(
        "cpc_images.py:small_shapes",
        {
            **CPC_IMAGES,
            "method.directions": ("down", "up", "right", "left"),
            "views.families.patch.ops": ("elastic", "tone_curve", "drop_channels"),
            "optimizer.polyak": 0.9,
        },
        slow=True,
    ),
    "ijepa": Row(
        "ijepa.py:digits",
        {
            **VIEW,
            "model.dim": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "nets.predictor.dim": 16,
            "nets.predictor.num_heads": 2,
            # A grid that has room for the released blocks.
            "model.patch_size": 2,
            "method.whole_grid": False,
            "method.max_context": 0.6,
            "method.min_context": 5,
        },
        slow=True,
    ),
    "colorization": Row(
        "colorization.py:small_shapes",
        {
            **VIEW,
            "data.image_size": 16,
            "data.options.num_generated": 64,
            "model.width": 2,
            "nets.decoder.channels": 4,
            "nets.decoder.depth": 0,
        },
        embeds=False,
    ),
    "context-encoder": Row(
        "context_encoder.py:small_shapes",
        {
            **VIEW,
            "optimizer.name": "adamw",  # with a state of its own for each player
            "data.image_size": 16,
            "data.options.num_generated": 64,
            "model.channels": (4, 8),
            "nets.decoder.channels": (8,),
            "nets.decoder.bottleneck": 8,
            "nets.discriminator.channels": (4, 4),
        },
        embeds=False,
    ),
    "context-encoder-region": Row(
        "context_encoder.py:cifar10",
        {
            **VIEW,
            "data.name": "shapes",
            "data.image_size": 16,
            "data.options": ConfigDict(dict(num_generated=64)),
            "data.num_examples": None,
            "data.num_classes": None,
            "dtype": "float32",
            "model.channels": (4, 8),
            "nets.decoder.channels": (8, 4),
            "nets.discriminator.channels": (4, 4),
        },
        embeds=False,
        slow=True,
    ),
    "multilabel": Row(
        "transfusion.py:lesions",
        {
            **VIEW,
            "model.width": 1 / 16,
            "data.options.num_generated": 64,
        },
        embeds=False,
    ),
    "supervised": Row(
        "supervised.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.projector_layers": 1,
            "method.hidden_dim": 16,
            "method.label_smoothing": 0.1,
        },
        embeds=False,
    ),
    "supervised-vit": Row(
        "supervised.py:digits",
        {
            "model.name": "vit_ti16",
            "model.patch_size": 4,
            **VIEW,
            "model.dim": 16,
            "model.depth": 2,
            "model.num_heads": 2,
            "model.drop_path": 0.2,
        },
        embeds=False,
        slow=True,
    ),
    "supervised-frozen": Row(
        "supervised.py:digits",
        {**CONVNET, **VIEW, "method.freeze_encoder": True},
        embeds=False,
        slow=True,
    ),
    "probe-grid": Row(
        "probe_grid.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.features": ("stage1/mean", "h"),  # not in the order of the alphabet
            "method.learning_rates": (0.1, 0.5),
            "method.weight_decays": (0.0, 0.1),
        },
        embeds=False,
    ),
    "probe-grid-vit": Row(
        "probe_grid.py:digits_vit",
        {
            **VIEW,
            "model.dim": 16,
            "model.depth": 2,
            "model.num_heads": 2,
            "method.features": ("h", "last2/cls_mean", "layer1/mean", "last1/patches"),
            "method.learning_rates": (0.1,),
            "method.attentive_learning_rates": (1e-3, 1e-2),
            "method.head_dim": 8,
        },
        untrained=("/(query|key|value)$",),  # in the first step, as the classifier is 0
        embeds=False,
        slow=True,
    ),
    "supervised-frames": Row(
        "supervised.py:speech",
        {name: value for name, value in CPC_AUDIO.items() if name != "method.num_steps"},
        embeds=False,
        slow=True,
    ),
    "simclr-v2": Row(
        "simclr_v2.py:digits",
        {**CONVNET, **VIEWS, "method.hidden_dim": 16, "method.output_dim": 8},
        slow=True,
    ),
    "simclr-v2-memory": Row(
        "simclr_v2.py:digits",
        {
            **CONVNET,
            **VIEWS,
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.memory_size": 48,
        },
        slow=True,
    ),
    "distill": Row(
        "distill.py:digits",
        {
            **CONVNET,
            **VIEW,
            "method.distill_weight": 0.5,
            "init_from": "runs/teacher",  # read by the train command only
        },
        embeds=False,
        slow=True,
    ),
    "vae": Row(
        "vae.py:digits",
        {
            "model.widths": (16,),
            "nets.decoder.widths": (16,),
            "method.num_latents": 4,
            **_QUICK,
        },
        embeds=False,
    ),
    "vae-conv": Row(
        "vae.py:small_shapes",
        {
            "data.image_size": 16,
            "data.options.num_generated": 64,
            "model.channels": (4, 8),
            "model.widths": (8,),
            "nets.decoder.channels": (8, 4),
            "nets.decoder.widths": (8,),
            "method.num_latents": 3,
            "method.likelihood": "gaussian",
            "method.learn_noise": True,
            "eval.factor_vae_metric": ConfigDict(dict(batch_size=2)),
            **_QUICK,
        },
        embeds=False,
        slow=True,
    ),
    "autoencoder": Row(
        "autoencoder.py:digits",
        {
            "model.widths": (16,),
            "nets.decoder.widths": (16,),
            "method.num_latents": 4,
            "method.activation": "relu",
            "method.l1": 0.01,
            **_QUICK,
        },
        embeds=False,
    ),
    "denoising-autoencoder": Row(
        "denoising_autoencoder.py:digits",
        {"method.num_latents": 8, **_QUICK},
        embeds=False,
    ),
    "stacked-denoising-autoencoder": Row(
        "denoising_autoencoder.py:digits_stack",
        {"model.widths": (8, 4), **_QUICK},
        untrained=("encoder/mlp/dense1/.*", "decoder/layer1/.*"),
        embeds=False,
        slow=True,
    ),
    "cpc-audio": Row("cpc_audio.py:speech", CPC_AUDIO, embeds=False),
    "cpc-audio-same": Row(
        "cpc_audio.py:speech",
        {
            **CPC_AUDIO,
            "method.negatives": "same_excluding",
            "model.norm": "none",
            "model.padded": False,
        },
        embeds=False,
        slow=True,
    ),
    "bert": Row(
        "bert.py:pydoc",
        {
            **TEXT,
            "method.next_sentence": True,
            "method.num_masks": 10,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, rows="pairs")),
        },
        embeds=False,
    ),
    "roberta": Row(
        "roberta.py:pydoc",
        {
            **TEXT,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, tokenizer="bpe", rows="full_sentences")),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.remat": "dots",
        },
        embeds=False,
        slow=True,
    ),
    "gpt": Row(
        "gpt.py:pydoc",
        {
            **TEXT,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, tokenizer="bpe", rows="stream")),
        },
        embeds=False,
    ),
    "image-gpt": Row(
        "image_gpt.py:digits",
        {
            **_QUICK,
            "views.ops": ("center_crop",),
            "views.center_crop.size": 6,
            "views.center_crop.fraction": 1.0,
            "model.dim": 16,
            "model.depth": 2,
            "model.num_heads": 2,
            "method.num_colors": 8,
            "method.palette_pixels": 4,
            "method.chunk_size": 50,
            "eval.features": ("h",),
        },
        untrained=("encoder/(?!output/)",),  # in the first step: the table of the logits is 0
        embeds=False,
    ),
    "image-gpt-bert": Row(
        "image_gpt.py:digits",
        {
            **_QUICK,
            "views.ops": ("center_crop",),
            "views.center_crop.size": 6,
            "views.center_crop.fraction": 1.0,
            "model.dim": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "method.objective": "bert",
            "method.num_colors": 8,
            "eval.features": ("h",),
        },
        untrained=("encoder/(?!output/)",),
        embeds=False,
        slow=True,
    ),
    "t5": Row(
        "t5.py:pydoc",
        {
            **{key: value for key, value in TEXT.items() if key != "model.max_length"},
            "data.options": ConfigDict(
                dict(TEXT_OPTIONS, tokenizer="bpe", rows="stream", sentinels=8)
            ),
            "model.head_dim": 8,
            "model.hidden_dim": 16,
        },
        embeds=False,
    ),
    "word2vec": Row(
        "word2vec.py:pydoc",
        {**WORDS, "method.loss": "shared_negatives", "method.block_size": 8},
        untrained=("encoder",),  # at first: the output vectors are 0
        embeds=False,
    ),
    "word2vec-cbow": Row(
        "word2vec.py:text8",
        {**WORDS, "method.loss": "negative_sampling", "method.num_negatives": 3},
        untrained=("encoder",),
        embeds=False,
        slow=True,
    ),
    "supervised-text": Row(
        "finetune.py:csv",
        {
            **LABELLED,
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.pool": "pooler",
        },
        embeds=False,
        slow=True,
    ),
    "supervised-gpt": Row(
        "finetune.py:gpt_pydoc",
        {
            **{key: value for key, value in LABELLED.items() if key != "model.name"},
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(dict(tokenizer="bpe", vocab_size=300, sequence_length=32)),
        },
        embeds=False,
        slow=True,
    ),
    "text-to-text": Row(
        "finetune.py:t5_pydoc",
        {
            **{
                key: value
                for key, value in LABELLED.items()
                if key not in ("model.name", "model.max_length")
            },
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(dict(tokenizer="bpe", vocab_size=300, sequence_length=32)),
            "model.head_dim": 8,
            "model.hidden_dim": 16,
        },
        embeds=False,
        slow=True,
    ),
    "supervised-text-lora": Row(
        "finetune.py:csv",
        {
            **LABELLED,
            "adapt.name": "lora",
            "adapt.rank": 2,
            "adapt.dropout": 0.1,
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.pool": "pooler",
        },
        embeds=False,
        slow=True,
        untrained=("lora/.*/a$",),  # in the first step, where b is 0
    ),
    "regression": Row(
        "finetune.py:roberta_stsb",
        {
            **LABELLED,
            "data.name": f"csv:{labelled_texts.path('pairs.tsv')}",
            "data.options": ConfigDict(
                dict(LABELLED_OPTIONS, task="regress", text_key="first", text_pair_key="second")
            ),
        },
        embeds=False,
        slow=True,
    ),
    "token-classification": Row(
        "finetune.py:conll",
        {
            **LABELLED,
            "data.name": f"conll:{labelled_texts.path('names.txt')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
        },
        embeds=False,
    ),
    "question-answering": Row(
        "finetune.py:squad",
        {
            **LABELLED,
            "data.name": f"squad:{labelled_texts.path('questions.json')}",
            "data.options": ConfigDict(dict(LABELLED_OPTIONS, stride=8, query_length=8)),
        },
        embeds=False,
        slow=True,
    ),
}
