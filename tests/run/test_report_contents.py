"""What the report page shows of a few examples."""

import types

import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.pretrained import trained_run
from ssl_jax.run import report_contents
from ssl_jax.run.probing import Prober
from tests.run.test_final_results import built


def test_maps_of_another_net_are_beside_those_of_the_same_images(monkeypatch):
    experiment, source = built("simclr", **{"log.beside": "runs/other@7"})
    prober = Prober(experiment.config, experiment.mesh)
    w, other = experiment.init_state().weights, built("simclr", seed=3)[0]
    weights = other.init_state().weights
    loaded = types.SimpleNamespace(experiment=other, weights=weights, step=7)
    monkeypatch.setattr(trained_run, "load", lambda path: {"runs/other@7": loaded}[path])
    batch = report_contents.examples(prober, source)
    (item,) = report_contents.activation_items(experiment, w, batch).values()
    half = len(item.columns) // 2
    assert item.columns[half:] == tuple(f"{name} *" for name in item.columns[:half])
    assert item.note.endswith("marked by a star: runs/other@7, step 7.")
    own, right = np.split(np.asarray(item.pixels), 2, axis=1)
    assert np.abs(own - right).max() > 0.01
    # Alone, either net has the same maps.
    alone, _ = built("simclr")
    for maps, weights_of in ((own, w), (right, weights)):
        (item,) = report_contents.activation_items(alone, weights_of, batch).values()
        np.testing.assert_allclose(item.pixels, maps, atol=1e-6)
        assert "star" not in item.note


def test_what_another_run_of_the_method_fills_in_stands_beside_its_own(monkeypatch):
    experiment, source = built("context-encoder", **{"log.beside": "runs/l2"})
    prober = Prober(experiment.config, experiment.mesh)
    w = experiment.init_state().weights
    batch = report_contents.examples(prober, source)

    def show_beside(row, **changes):
        other = built(row, **changes)[0]
        loaded = types.SimpleNamespace(experiment=other, weights=other.init_state().weights, step=7)
        monkeypatch.setattr(trained_run, "load", {"runs/l2": loaded}.__getitem__)
        return report_contents.shown_items(experiment, w, batch), loaded

    items, other = show_beside("context-encoder", seed=3)
    item = items["Filled holes"]
    assert item.columns == ("input", "output", "output *", "truth")
    assert item.note.endswith("Marked by a star: runs/l2, step 7.")
    alone, _ = built("context-encoder")
    for weights, column in ((w, 1), (other.weights, 2)):
        shown = report_contents.shown_items(alone, weights, batch)["Filled holes"]
        assert shown.columns == ("input", "output", "truth") and "star" not in shown.note
        np.testing.assert_allclose(shown.pixels[:, 1], item.pixels[:, column], atol=1e-6)
    # The same weights have nothing to add, nor has another method.
    items, _ = show_beside("context-encoder")
    assert items["Filled holes"].columns == ("input", "output", "truth")
    items, _ = show_beside("simclr")
    assert items["Filled holes"].columns == ("input", "output", "truth")


@pytest.mark.parametrize(
    ("row", "other", "message"),
    [
        ("simclr", None, "is not a run: it has no config.json"),
        ("simclr", {}, "has no checkpoint yet"),
        ("simclr", {"checkpoint": True, "step": 4}, "no checkpoint of step 4; it has .* steps 3$"),
        ("bert", {"checkpoint": True}, "images with 1 channel, and this run texts"),
        ("simclr", {"checkpoint": True, "data.channels": 3}, "images with 3 channels, and this"),
    ],
)
def test_what_cannot_be_shown_beside_is_said_before_a_run(row, other, message, tmp_path):
    beside = str(tmp_path)
    if other is not None:
        other = dict(other)
        has_checkpoint, step = other.pop("checkpoint", False), other.pop("step", None)
        beside += "" if step is None else f"@{step}"
        experiment, _ = built("simclr", **other)
        (tmp_path / "config.json").write_text(config_lib.to_json(experiment.config))
        if has_checkpoint:
            (tmp_path / "checkpoints" / "3").mkdir(parents=True)
            (tmp_path / "checkpoints" / "3" / "manifest.json").write_text("{}")
    experiment, _ = built(row, **{"log.beside": beside})
    with pytest.raises(UserError, match=message) as told:
        report_contents.check_beside(experiment)
    assert "\n" not in str(told.value)
