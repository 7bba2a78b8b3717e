"""Sweeps on Fashion-MNIST: how many labels a cell has, which seeds, which losses."""

import collections

import pytest

from ssl_jax.data.few_labels import FewLabels
from ssl_jax.sweeps import grid


def test_few_labels_are_as_many_of_each_class():
    cells = grid.load("sweeps/few_labels:fashion").cells
    for cell in cells:
        fraction = cell.overrides["data.labelled_fraction"]
        assert FewLabels(fraction).labelled(10_000, 10) == 10 * cell.labels["labels"]
        assert cell.overrides["batch_size"] <= 10 * cell.labels["labels"]
        assert cell.overrides["init_weights"] == (cell.labels["start"] == "pretrained")
    seeds = collections.Counter(cell.labels["labels"] for cell in cells)
    assert seeds == {8: 6, 32: 2, 128: 2, 512: 2}


def test_the_shortest_and_the_longest_runs_of_rotnet_have_three_seeds():
    cells = grid.load("ablations/rotnet_epochs:fashion").cells
    seeds = collections.Counter(cell.labels["epochs"] for cell in cells)
    assert seeds == {1.0: 3, 2.0: 1, 4.0: 1, 8.0: 3}
    assert all(cell.overrides["optimizer.warmup_epochs"] < 1 for cell in cells)


@pytest.mark.parametrize(("variant", "losses", "seeds"), [("fashion", 6, 1), ("digits", 13, 3)])
def test_losses_of_metric_learning_are_beside_simclr(variant, losses, seeds):
    cells = grid.load(f"sweeps/metric_learning:{variant}").cells
    assert len(cells) == (losses + 1) * seeds
    baselines = {cell.labels["loss"]: cell.overrides["eval.baselines"] for cell in cells}
    assert baselines.pop("simclr") == ("pixels", "untrained")
    assert set(baselines.values()) == {()}
    assert all(cell.load().data.classes == "train half" for cell in cells[:: len(cells) - 1])
