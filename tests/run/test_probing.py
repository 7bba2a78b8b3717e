"""What a prober delivers to evaluations."""

import types

import jax
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import evals, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.run import probing
from ssl_jax.run.probing import Prober


def make_prober(devices=1, **changes):
    config = config_lib.base_config()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return Prober(config, parallel.make_mesh(devices=jax.devices()[:devices]))


def shapes(devices=1, **changes):
    options = {"num_generated": 40}
    return make_prober(devices, **{
        "data.name": "shapes", "data.image_size": 16, "data.options": options,
        "eval.batch_size": 16, **changes,
    })  # fmt: skip


def factor_evaluation(evaluate):
    module = types.SimpleNamespace(
        NEEDS=("factors",), METRICS={"score": evals.Metric("score")}, evaluate=evaluate
    )
    return evals.Evaluation("factors", module, {})


@pytest.mark.parametrize("devices", [1, 8])
def test_true_factors_stand_beside_the_features(devices):
    prober = shapes(devices, **{"eval.max_train_examples": 24})
    seen = {}

    def evaluate(train, test, *, factor_names):
        seen.update(train=train, test=test, names=factor_names)
        return {"score": 0.5}

    def encode(batch):  # the mean colour
        return {"h": batch["image"].astype(np.float32).mean(axis=(1, 2))}

    got = prober.evaluate(encode, [factor_evaluation(evaluate)])
    assert got == {"factors/score": 0.5} and seen["names"] == prober.train.factor_names
    taken = prober.train_subset()
    for split, source, rows in (
        ("train", prober.train, taken), ("test", prober.test, np.arange(8)),
    ):  # fmt: skip
        np.testing.assert_array_equal(seen[split]["factors"], source.factors[rows])
        image = source.batch(rows)["image"].astype(np.float32)
        np.testing.assert_allclose(seen[split]["h"], image.mean(axis=(1, 2)), rtol=1e-5)


def test_new_images_are_rendered_and_encoded():
    prober = shapes()
    seen = {}

    def evaluate(test, *, rendered):
        factors = rendered.draw(np.random.default_rng(0), 21)
        seen.update(factors=factors, codes=rendered.encode(factors))
        return {"score": 0.5}

    def encode(batch):
        return {"h": batch["image"].astype(np.float32).mean(axis=(1, 2))}

    prober.evaluate(encode, [factor_evaluation(evaluate)])
    image = prober.test.renderer.source(seen["factors"]).batch(np.arange(21))["image"]
    assert image.shape == (21, 16, 16, 3)
    np.testing.assert_allclose(seen["codes"], image.mean(axis=(1, 2), dtype=np.float32), rtol=1e-5)


def test_evaluations_that_the_data_set_allows(monkeypatch):
    prober = shapes()
    assert [one.name for one in prober.evaluations(["knn", "collapse"])] == ["knn", "collapse"]
    monkeypatch.setattr(Prober, "labelled", False)
    assert [one.name for one in prober.evaluations(["knn", "collapse"])] == ["collapse"]
    section = {"evaluation": "knn", "target": "phone"}
    prober = shapes()
    with prober.config.unlocked():
        prober.config.eval.phones = section
    with pytest.raises(UserError, match="'phones' needs 'phone', but shapes has factors, image"):
        prober.evaluations(["phones"])
    digits = make_prober()
    monkeypatch.setattr(
        evals, "load_all", lambda *_: (factor_evaluation(lambda test: {"score": 1.0}),)
    )
    with pytest.raises(UserError, match="needs 'factors', but digits has image, index, label"):
        digits.evaluations(["factors"])


def test_the_dimensions_of_features_and_targets_are_checked():
    h, frames, pixels = (jax.ShapeDtypeStruct((1, *s), "float32") for s in ((4,), (9, 4), (2,) * 4))
    outputs = {"h": h, "frames": frames, "pixels": pixels}
    knn = evals.load("knn")
    targets = {"label": jax.ShapeDtypeStruct((), "int32")}
    probing.check_features([knn], outputs, targets=targets)
    with pytest.raises(UserError, match="'label' is one value an example, and features 'frames'"):
        probing.check_features([knn], outputs, "frames", targets)
    with pytest.raises(UserError, match="'pixels' has 5 dimensions"):
        probing.check_features([knn], outputs, "pixels", targets)
    with pytest.raises(
        UserError, match="evaluation 'accuracy' needs the output 'logits', but this method"
    ):
        probing.check_features([evals.load("accuracy")], outputs)
