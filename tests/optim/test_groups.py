"""What the optimizer section means for each group of parameters."""

import pytest

from ssl_jax.optim import read_groups

RUN = dict(batch_size=512, total_steps=100, steps_per_epoch=10)
SECTION = dict(base_lr=0.1, schedule="constant", warmup_steps=0, frozen_epochs=0.0)


def test_a_group_follows_the_section_where_it_says_nothing():
    section = {**SECTION, "clip": dict(norm=2.0, per="group"), "weight_decay": 0.3}
    groups = read_groups({**section, "groups": {"head": dict(lr_factor=0.5)}}, **RUN)
    head, default = groups.group("head"), groups.group("encoder")
    assert default is groups.default and head is groups.named["head"]
    assert head.weight_decay == default.weight_decay == 0.3
    assert head.section.clip == default.section.clip
    assert head.learning_rate(5) == pytest.approx(0.1) and default.learning_rate(5) == 0.2
    assert not head.has_own_clip


def test_a_group_overrides_a_part_of_the_clip():
    section = {**SECTION, "clip": dict(norm=2.0, per="group")}
    groups = read_groups({**section, "groups": {"head": dict(clip=dict(norm=1.0))}}, **RUN)
    head = groups.named["head"]
    assert (head.section.clip.norm, head.section.clip.per, head.has_own_clip) == (
        1.0,
        "group",
        True,
    )


def test_rates_are_those_of_the_step_of_the_run():
    section = {
        **SECTION,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "groups": {"last_layer": dict(frozen_epochs=1.0, weight_decay_end=None)},
    }
    groups = read_groups(section, **RUN)
    frozen, thawed = groups.rates(9), groups.rates(50)
    assert set(thawed) == {"learning_rate", "learning_rate/last_layer", "weight_decay"}
    assert frozen["learning_rate/last_layer"] == 0
    assert frozen["learning_rate"] == thawed["learning_rate/last_layer"] == pytest.approx(0.2)
    assert thawed["weight_decay"] == pytest.approx(0.22)


def test_frozen_steps_win_over_frozen_epochs():
    assert read_groups({"frozen_epochs": 1.5}, **RUN).default.frozen_steps == 15
    section = {"frozen_epochs": 1.5, "frozen_steps": 0}
    assert read_groups(section, **RUN).default.frozen_steps == 0
