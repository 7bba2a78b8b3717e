"""Encoders and heads, each as a `Net`: pure functions of plain nested dicts."""

from ssl_jax.models.convnet import ConvNet, convnet
from ssl_jax.models.functional import Net, count_parameters
from ssl_jax.models.heads import MLP, projection_head
from ssl_jax.models.registry import (
    DECODERS,
    ENCODERS,
    make_context,
    make_decoder,
    make_discriminator,
    make_encoder,
    make_map_decoder,
    make_patch_decoder,
    make_predictor,
)
from ssl_jax.models.resnet import ResNet, resnet
from ssl_jax.models.text_heads import PairHead, token_head
from ssl_jax.models.transformer import TextEncoder, text_decoder, text_encoder
from ssl_jax.models.vit import ViT, vit
from ssl_jax.models.word_vectors import WordVectors

__all__ = [
    "DECODERS",
    "ENCODERS",
    "MLP",
    "ConvNet",
    "Net",
    "PairHead",
    "ResNet",
    "TextEncoder",
    "ViT",
    "WordVectors",
    "convnet",
    "count_parameters",
    "make_context",
    "make_decoder",
    "make_discriminator",
    "make_encoder",
    "make_map_decoder",
    "make_patch_decoder",
    "make_predictor",
    "projection_head",
    "resnet",
    "text_decoder",
    "text_encoder",
    "token_head",
    "vit",
]
