"""Methods that compare two views of an image, or a view with a memory bank."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests.methods.rows.images import CONVNET, VIEW, VIEWS
from tests.methods.rows.row import Row

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
}
