import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import transformations
from ssl_jax.experiment.build import Experiment
from ssl_jax.run import probing
from ssl_jax.run.evaluation_checks import check_evaluations
from tests.methods.table import ROWS


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(data.load("shapes", "train", image_size=16, num_generated=600).images)


@pytest.mark.parametrize("name", transformations.TASKS)
def test_images_are_changed_as_their_labels_say(images, name):
    index = jnp.arange(len(images))
    changed, label = transformations.transform(name, images, index)
    before, after, label = np.asarray(images) / np.float32(255), *map(np.asarray, (changed, label))
    same = np.abs(after - before).max(axis=(1, 2, 3)) < 1e-6
    # How often each label occurs is what guessing the commonest one reaches.
    share = np.bincount(label) / len(label)
    chance = {"color": [0.8, 0.2], "rotation": [0.25] * 4}.get(name, [0.5, 0.5])
    np.testing.assert_allclose(share, chance, atol=0.06)
    assert same[label == 0].all() and not same[label > 0].any()
    grey = np.ptp(after, axis=-1).max(axis=(1, 2)) < 1e-6
    np.testing.assert_array_equal(grey, (label == 1) & (name == "color"))
    if name == "rotation":
        for i in range(20):
            np.testing.assert_allclose(after[i], np.rot90(before[i], label[i]), atol=1e-6)
    # An image's change is its own, whatever batch it is in.
    part, part_label = transformations.transform(name, images[100:103], index[100:103])
    np.testing.assert_array_equal(part, changed[100:103])
    np.testing.assert_array_equal(part_label, label[100:103])


def test_the_prober_finds_what_features_keep_and_not_what_they_lack():
    config = ROWS["simclr"].load(
        data__name="shapes", data__image_size=16, data__options={"num_generated": 500},
        eval__batch_size=128,
    )  # fmt: skip
    prober = probing.Prober(config, parallel.make_mesh(devices=jax.devices()[:1]))

    def encode(batch):
        image = batch["image"].astype(jnp.float32)
        spread = jnp.ptp(image, axis=-1).mean(axis=(1, 2))  # colourfulness
        return {"h": jnp.stack([spread, spread**2], axis=1), "z": image.mean(axis=(1, 2))[:, :1]}

    with prober.config.unlocked():
        prober.config.eval.transformations.changes = ("color", "rotation")
    found = prober.evaluate(encode, ["transformations"])
    assert set(found) == {f"transformations/{name}{end}" for name in ("color", "rotation")
                          for end in ("", "_epochs")}  # fmt: skip
    assert found["transformations/color"] > 0.98 and found["transformations/rotation"] < 0.45
    prober.config.eval.transformations.changes = ("color",)
    assert prober.evaluate(encode, ["transformations"], "z")["transformations/color"] < 0.9


def test_a_wrong_name_is_found_before_the_run():
    names = {"eval__final_names": ("transformations",)}
    with pytest.raises(UserError, match="changes is .*rotate.*each item one of color, rotation"):
        ROWS["simclr"].load(**names, eval__transformations__changes=("rotate",))
    config = ROWS["bert"].load(**names)
    experiment = Experiment.build(config, data.from_config(config.data).spec)
    with pytest.raises(UserError, match="'transformations' is not for method BERT on these data"):
        check_evaluations(experiment)


def test_outputs_to_probe_are_checked_before_the_run():
    for features in (("z",), ("h", "h"), ()):
        with pytest.raises(UserError, match="eval.features is .*'h' among them, each once"):
            ROWS["simclr"].load(eval__features=features)
    config = ROWS["simclr"].load(eval__features=("h", "y"))
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    message = "evaluation 'knn' needs the output 'y', but this method has h, z.*eval.features"
    with pytest.raises(UserError, match=message):
        check_evaluations(experiment)
