"""Methods of images that learn from labels or from a teacher."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from tests.methods.rows.images import CONVNET, VIEW
from tests.methods.rows.row import Row

# Four classes of four examples, as losses that compare the examples of a batch need them.
PK = {"data.sampler.examples_per_class": 4}


def _metric(loss: str, more: Mapping[str, Any] = types.MappingProxyType({})) -> Row:
    """A row of metric learning by another loss than that of "metric-triplet"."""
    overrides = {**CONVNET, **VIEW, **PK, "method.output_dim": 8, "method.loss": loss, **more}
    return Row("metric_learning.py:digits", overrides, slow=True, rounding=2e-4)


ROWS = {
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
}
