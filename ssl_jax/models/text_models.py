"""Text models with a name: sizes and options of the papers."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ssl_jax.models.encoder_decoder import EncoderDecoder, encoder_decoder
from ssl_jax.models.transformer import TextEncoder, text_decoder, text_encoder

# Width, layers and heads; the sizes below base are those of Turc et al. 2019.
TEXT_SIZES = {
    "tiny": dict(dim=128, depth=2, num_heads=2),
    "mini": dict(dim=256, depth=4, num_heads=4),
    "small": dict(dim=512, depth=4, num_heads=8),
    "medium": dict(dim=512, depth=8, num_heads=8),
    "base": dict(dim=768, depth=12, num_heads=12),
    "large": dict(dim=1024, depth=24, num_heads=16),
}
# Options of the encoders of the papers, besides the size.
TEXT_FAMILIES = {
    "bert": dict(vocab_size=30522, num_types=2, activation="gelu_tanh", norm_eps=1e-12),
    "roberta": dict(
        vocab_size=50265, num_types=1, position_offset=2, activation="gelu", norm_eps=1e-5
    ),
}
# Decoders without the vocabulary. GPT-1: Radford et al. 2018, Sec. 4.1; all weights N(0, 0.02^2).
# GPT-2: Radford et al. 2019, Table 2. GPT-3: Brown et al. 2020, Table 2.1. That table gives 1.3B 24
# heads of 128 at a width of 2048, and 13B 40 heads of 128 at a width of 5140: here 1.3B has 16
# heads and 13B a width of 5120.
DECODERS = {
    "gpt1": dict(
        dim=768, depth=12, num_heads=12, max_length=512, pre_norm=False, position_std=0.02,
        scale_residual=False,
    ),
    "gpt2_tiny": dict(dim=128, depth=2, num_heads=2),
    "gpt2_mini": dict(dim=256, depth=4, num_heads=4),
    "gpt2": dict(dim=768, depth=12, num_heads=12),
    "gpt2_medium": dict(dim=1024, depth=24, num_heads=16),
    "gpt2_large": dict(dim=1280, depth=36, num_heads=20),
    "gpt2_xl": dict(dim=1600, depth=48, num_heads=25),
    "gpt3_125m": dict(dim=768, depth=12, num_heads=12, max_length=2048),
    "gpt3_350m": dict(dim=1024, depth=24, num_heads=16, max_length=2048),
    "gpt3_760m": dict(dim=1536, depth=24, num_heads=16, max_length=2048),
    "gpt3_1_3b": dict(dim=2048, depth=24, num_heads=16, max_length=2048),
    "gpt3_2_7b": dict(dim=2560, depth=32, num_heads=32, max_length=2048),
    "gpt3_6_7b": dict(dim=4096, depth=32, num_heads=32, max_length=2048),
    "gpt3_13b": dict(dim=5120, depth=40, num_heads=40, max_length=2048),
    "gpt3_175b": dict(dim=12288, depth=96, num_heads=96, max_length=2048),
}  # fmt: skip
# T5 (Raffel et al. 2020, Sec. 3.7) and the released configurations of version 1.1.
T5 = {
    "t5_tiny": dict(dim=128, hidden_dim=512, depth=2, num_heads=4, head_dim=32),
    "t5_small": dict(dim=512, hidden_dim=2048, depth=6, num_heads=8),
    "t5_base": dict(dim=768, hidden_dim=3072, depth=12, num_heads=12),
    "t5_large": dict(dim=1024, hidden_dim=4096, depth=24, num_heads=16),
    "t5_3b": dict(dim=1024, hidden_dim=16384, depth=24, num_heads=32, head_dim=128),
    "t5_11b": dict(dim=1024, hidden_dim=65536, depth=24, num_heads=128, head_dim=128),
    "t5_1_1_small": dict(dim=512, hidden_dim=1024, depth=8, num_heads=6),
    "t5_1_1_base": dict(dim=768, hidden_dim=2048, depth=12, num_heads=12),
    "t5_1_1_large": dict(dim=1024, hidden_dim=2816, depth=24, num_heads=16),
    "t5_1_1_xl": dict(dim=2048, hidden_dim=5120, depth=24, num_heads=32),
    "t5_1_1_xxl": dict(dim=4096, hidden_dim=10240, depth=24, num_heads=64),
}

TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    f"{family}_{size}": functools.partial(text_encoder, **TEXT_SIZES[size], **options)
    for family, options in TEXT_FAMILIES.items()
    for size in TEXT_SIZES
}
TEXT_DECODERS: dict[str, Callable[..., TextEncoder]] = {
    name: functools.partial(text_decoder, vocab_size=40_478 if name == "gpt1" else 50_257, **size)
    for name, size in DECODERS.items()
}
ENCODER_DECODERS: dict[str, Callable[..., EncoderDecoder]] = {
    name: functools.partial(
        encoder_decoder,
        vocab_size=32_100,
        **size,
        **(dict(activation="gated_gelu", tied=False) if name.startswith("t5_1_1") else {}),
    )
    for name, size in T5.items()
}
