"""Methods that predict what is known of an image or of its representation."""

from __future__ import annotations

from tests.methods.rows.images import CONVNET, VIEW
from tests.methods.rows.row import Row

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
ROWS = {
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
}
