"""Accuracy on corrupted images through a prober."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import corruptions, knn
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS


def _pixels(batch):
    image = batch["image"]
    image = image / 255 if image.dtype == jnp.uint8 else image
    return {"h": jnp.reshape(image, (len(image), -1)) - 0.3}


def test_means_over_corruptions_and_severities():
    config = ROWS["simclr"].load(
        data__name="digits", eval__corruptions__names=("gaussian_noise", "contrast"),
        eval__corruptions__severities=(1, 5), eval__corruptions__max_examples=100,
    )  # fmt: skip
    prober = Prober(config, parallel.make_mesh())
    got = prober.evaluate(_pixels, ["corruptions"])
    got = {name.partition("/")[2]: value for name, value in got.items()}
    names = ("gaussian_noise", "contrast")
    assert set(got) == {"mean", "clean", "severity_1", "severity_5", *names}
    assert got["mean"] == pytest.approx(np.mean([got[name] for name in names]))
    assert got["mean"] == pytest.approx((got["severity_1"] + got["severity_5"]) / 2)
    assert 0.3 < got["severity_5"] < got["severity_1"] < got["clean"] <= 1
    train = prober.features(_pixels, prober.train)
    subset = prober.evenly(prober.test, 100)
    found = []
    for name in names:
        for severity in (1, 5):
            test = prober.features(
                lambda batch, n=name, s=severity: _pixels(corruptions.corrupted(batch, n, s)),
                prober.test, subset,
            )  # fmt: skip
            found.append(knn.evaluate(train, test, num_classes=10, k=20)["top1"])
    assert got["gaussian_noise"] == pytest.approx(np.mean(found[:2]))
    assert got["contrast"] == pytest.approx(np.mean(found[2:]))


def test_a_wrong_name_is_found_before_the_run():
    for key, value, message in (
        ("names", ("fogg",), "names is .*fogg"), ("severities", (0,), "severities is"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            ROWS["simclr"].load(**{f"eval__corruptions__{key}": value})
