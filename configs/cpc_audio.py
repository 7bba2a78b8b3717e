"""Contrastive predictive coding on audio (van den Oord et al. 2018), https://arxiv.org/abs/1807.03748

    ssl_jax train --config=cpc_audio:VARIANT --workdir=runs/cpc_audio

Variants:
  speech       synthetic speech of 16 voices, with the phone and the speaker of every frame: some
               minutes on two CPU cores
  librispeech  train-clean-100 (100 hours, 251 speakers) as published, --config.data.name=
               librispeech:DIR; a window of 1.28 s, batches of 8 on 8 GPUs
  folder       wav, flac and ogg files in a folder for each speaker, --config.data.name=folder:DIR

Published (Tables 1 and 2), accuracy in %, of linear classifiers of frames on LibriSpeech, phone and
speaker: random initialisation 27.6 and 1.87, MFCC 39.7 and 17.6, CPC 64.6 and 97.4 (72.5 of phones
with a hidden layer), supervised 74.6 and 98.5.

Not published: the number of negatives, initialisation and padding; see `ssl_jax.methods.cpc_audio`.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("speech", "librispeech", "folder")


def get_config(variant: str = "speech") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("cpc_audio", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="cpc_audio", num_steps=12, negatives="mixed"))
    config.model.update(name="conv_gru")
    common.frame_probes(config, phones=variant != "folder")
    if variant == "speech":
        common.speech(config)
    elif variant == "librispeech":
        _librispeech(config)
    else:
        _folder(config)
    return config


def _librispeech(config: ConfigDict) -> None:
    """Van den Oord et al. 2018, Sec. 3.1: 8 GPUs with 8 windows each, about 300,000 updates."""
    config.batch_size = 64
    config.steps = 300_000
    config.data.update(name="librispeech:/data/LibriSpeech", workers=8)
    config.data.num_examples = 237_000  # windows of the train split; known once opened
    config.data.num_classes = 251
    config.optimizer.update(name="adamw", base_lr=2e-4, lr_scaling="none", weight_decay=0.0)
    config.eval.update(every_epochs=20.0, batch_size=64, max_train_examples=20_000)
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 50


def _folder(config: ConfigDict) -> None:
    """A small net, as for `speech`, on recordings of any rate."""
    common.speech(config)
    config.data.update(name="folder:/data/voices", workers=0)
    config.data.options = ConfigDict(dict(window=20_480, folders="speakers"))
    config.data.num_examples = 1_000  # windows; known once opened
    config.data.num_classes = 10
