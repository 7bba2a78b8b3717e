"""Methods with views of several sizes."""

from __future__ import annotations

from tests.methods.rows.images import CONVNET, CROPS
from tests.methods.rows.row import Row

ROWS = {
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
}
