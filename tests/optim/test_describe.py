"""What the preflight says about the optimizer of each group."""

import jax
import numpy as np
import pytest

from ssl_jax.optim import describe, read_groups

RUN = dict(batch_size=512, total_steps=100, steps_per_epoch=10)
SHAPES = {
    "encoder": {
        "embed": {"kernel": (4, 3), "bias": (3,)},
        **{f"layer{i}": {"kernel": (3, 3), "bias": (3,)} for i in (1, 2, 3)},
    },
    "head": {"kernel": (3, 2), "bias": (2,)},
    "last_layer": {"kernel": (2, 5)},
}
PARAMS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, np.float32), SHAPES,
    is_leaf=lambda node: isinstance(node, tuple),
)  # fmt: skip
SECTION = dict(name="adamw", base_lr=0.01, warmup_epochs=1.0, weight_decay=0.04)


def part_of_net(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "encoder" else parts[0]


def say(group_of=part_of_net, **changes):
    groups = read_groups({**SECTION, **changes}, **RUN)
    return describe(groups, PARAMS, group_of, **RUN)


def test_one_group_has_no_name():
    rate, treatment = say(lambda path: "default")
    assert rate == (
        "optimizer", "adamw, peak 0.02 (0.01 x 512/256), cosine after 10 steps of warm-up"
    )  # fmt: skip
    assert treatment == ("", "55 parameters decayed by 0.04, 14 not (exclude='(bias|scale)$')")


def test_every_group_is_said_with_what_it_alone_has():
    last_layer = dict(
        lr_factor=0.5, lr_scaling="sqrt", schedule="constant", warmup_start=0.1, frozen_epochs=1.0,
        weight_decay_end=0.4, clip=dict(norm=3, per="tensor"),
    )  # fmt: skip
    lines = say(
        clip=dict(norm=1.0, per="all"), polyak=0.99,
        groups={"last_layer": last_layer, "layerwise": dict(decay=0.5)},
    )  # fmt: skip
    assert [text for _, text in lines] == [
        "embed, layer1 to layer3, head: adamw, peak 0.00125 to 0.02 by layer (0.01 x 512/256), "
        "cosine after 10 steps of warm-up",
        "45 parameters decayed by 0.04, 14 not (exclude='(bias|scale)$'); clip 1 over all",
        "last_layer: adamw, peak 0.1131 (0.5 x 0.01 x sqrt(512)), constant after 10 steps of "
        "warm-up from 0.01131",
        "10 parameters decayed by 0.04 -> 0.4; clip 3 per tensor; frozen until step 10",
        "a layer's rate is 0.5 of the next",
        "of all parameters, decay 0.99",
    ]
    assert [label for label, _ in lines if label] == [
        "optimizer", "layer-wise decay", "Polyak average"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(weight_decay=0.0), "69 parameters, not decayed"),
        (dict(base_lr=0.0), "69 parameters, never updated"),
        (dict(lr_factor=0.0), "69 parameters, never updated"),
        (dict(frozen_steps=100), "frozen for the whole run"),
        (dict(name="lamb"), "55 parameters decayed by 0.04 and adapted to their norm, 14 not"),
        (dict(name="lars", weight_decay=0.0), "55 parameters adapted to their norm (trust 0.001)"),
        (dict(exclude=""), "69 parameters decayed by 0.04"),
    ],
)
def test_treatment(changes, text):
    ((_, treatment),) = say(lambda path: "default", **changes)[1:]
    assert text in treatment
    assert ("exclude" in treatment) == (" not (" in treatment)


def test_a_warm_up_longer_than_the_run_is_said_as_it_will_run():
    rate, _ = say(lambda path: "default", warmup_steps=1000)
    assert rate[1] == "adamw, peak 0.0198 (0.01 x 512/256), cosine after 100 steps of warm-up"
