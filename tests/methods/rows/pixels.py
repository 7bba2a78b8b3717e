"""Methods that predict pixels."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests.methods.rows.images import QUICK, VIEW
from tests.methods.rows.row import Row

ROWS = {
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
    "vae": Row(
        "vae.py:digits",
        {
            "model.widths": (16,),
            "nets.decoder.widths": (16,),
            "method.num_latents": 4,
            **QUICK,
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
            **QUICK,
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
            **QUICK,
        },
        embeds=False,
    ),
    "denoising-autoencoder": Row(
        "denoising_autoencoder.py:digits",
        {"method.num_latents": 8, **QUICK},
        embeds=False,
    ),
    "stacked-denoising-autoencoder": Row(
        "denoising_autoencoder.py:digits_stack",
        {"model.widths": (8, 4), **QUICK},
        untrained=("encoder/mlp/dense1/.*", "decoder/layer1/.*"),
        embeds=False,
        slow=True,
    ),
    "image-gpt": Row(
        "image_gpt.py:digits",
        {
            **QUICK,
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
            **QUICK,
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
}
