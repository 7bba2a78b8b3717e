"""What a classifier says of its classes is scored by their names, on data of any order of them."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.pretrained import trained_run
from ssl_jax.run import metrics
from ssl_jax.run.loop import Run
from ssl_jax.run.probing import Prober
from tests.data.test_class_names import COLOURS, colour_folders
from tests.methods import table


def prober_on(dataset, names):
    """A prober of a run that has learned colours by these names."""
    config = config_lib.base_config()
    config.data.update(name="folder:elsewhere", image_size=8, channels=3, class_names=names,
                       num_classes=3, num_examples=12)  # fmt: skip
    config.eval.knn.k = 1
    return Prober(config, parallel.make_mesh(devices=jax.devices()[:1]), dataset)


def classifier(names):
    """Logits of the classes in this order, and the mean colour."""
    channels = [list(COLOURS).index(name) for name in names]

    @jax.jit
    def encode(batch):
        mean = jnp.mean(batch["image"].astype(jnp.float32) / 255, axis=(1, 2))
        return {"h": mean, "logits": mean[:, jnp.array(channels)]}

    return encode


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("blue", "green", "red")])
def test_accuracy_is_that_of_the_names(names, tmp_path):
    prober = prober_on(colour_folders(tmp_path), names)
    assert prober.evaluate(classifier(names), ["accuracy"])["accuracy/top1"] == 1.0
    # A probe is fitted to the data and needs no names, nor does it suffer from an order.
    assert prober.evaluate(classifier(names), ["knn"])["knn/top1"] == 1.0
    assert not prober.classes_by_number


@pytest.mark.parametrize(
    "folders", [("Red", "green", "blue"), ("red", "green", "yellow"), ("red", "green", "blue ish")]
)
def test_other_names_are_refused_with_both_lists(folders, tmp_path):
    dataset = colour_folders(tmp_path, dict(zip(COLOURS, folders, strict=True)))
    names = ("blue", "green", "red")
    prober = prober_on(dataset, names)
    with pytest.raises(UserError) as told:
        prober.evaluate(classifier(names), ["knn", "accuracy"])
    theirs = ", ".join(prober.test.class_names)
    message = str(told.value)
    assert message.startswith("the run knows the classes blue, green, red, and those of folder:")
    assert f"are {theirs}; " in message and "--evals=linear" in message and "\n" not in message
    assert prober.evaluate(classifier(names), ["knn"])["knn/top1"] == 1.0


def test_classes_without_names_are_matched_by_number(tmp_path):
    prober = prober_on(colour_folders(tmp_path), None)
    assert prober.classes_by_number
    scores = prober.evaluate(classifier(("blue", "green", "red")), ["accuracy"])
    assert scores["accuracy/top1"] == 1.0
    two = prober_on(colour_folders(tmp_path / "two", {"red": "red", "blue": "blue"}), None)
    with pytest.raises(UserError, match="has 3 classes and the data have 2"):
        two.evaluate(classifier(("blue", "green", "red")), ["accuracy"])


def begin(workdir, dataset, **overrides):
    config = table.ROWS["supervised"].load(
        data__name=dataset, data__image_size=8, data__channels=3, batch_size=8,
        eval__names=("accuracy",), eval__final_names=("accuracy",), **overrides,
    )  # fmt: skip
    return Run(config, str(workdir))


def test_a_run_continues_with_the_classes_that_it_has_learned(tmp_path):
    dataset, workdir = colour_folders(tmp_path / "data"), tmp_path / "run"
    begin(workdir, dataset)
    assert trained_run.read_config(workdir).data.class_names == ("blue", "green", "red")
    with metrics.MetricWriter(workdir, resume_step=0) as writer:
        writer.write(1, {"train/loss": 1.0})
    begin(workdir, dataset)
    for split in ("train", "test"):
        os.rename(tmp_path / "data" / split / "blue", tmp_path / "data" / split / "sky")
    with pytest.raises(UserError) as told:
        begin(workdir, dataset)
    assert str(told.value).startswith(
        "the run knows the classes blue, green, red, and those of folder:"
    )
    assert "are green, red, sky; name them as they were" in str(told.value)
    assert trained_run.read_config(workdir).data.class_names == ("blue", "green", "red")


def test_a_run_that_numbers_its_classes_otherwise_keeps_its_numbers(tmp_path):
    dataset, workdir = colour_folders(tmp_path / "data"), tmp_path / "run"
    names = ("red", "green", "blue")
    begin(workdir, dataset, data__class_names=names)
    with metrics.MetricWriter(workdir, resume_step=0) as writer:
        writer.write(1, {"train/loss": 1.0})
    run = begin(workdir, dataset)  # by default the order would be another one
    assert run.source.class_names == names == run.config.data.class_names
    batch = run.source.batch(np.arange(len(run.source)))
    expected = batch["image"].max(axis=(1, 2)).argmax(axis=1)  # red, green, blue
    np.testing.assert_array_equal(batch["label"], expected)


def test_other_data_that_are_scored_while_training_are_checked_at_once(tmp_path):
    dataset = colour_folders(tmp_path / "data")
    other = colour_folders(tmp_path / "other", dict(red="r", green="green", blue="blue"))
    with pytest.raises(UserError, match="learned"):
        begin(tmp_path / "run", dataset, eval__data=other)


def test_a_run_of_texts_knows_its_classes_too(tmp_path):
    path, workdir = tmp_path / "t.csv", tmp_path / "run"
    rows = [("a good ship", "yes"), ("a poor river", "no")] * 20

    def begin(labels):
        lines = [f"{text},{labels[label]}" for text, label in rows]
        path.write_text("\n".join(["text,label", *lines]) + "\n")
        config = table.ROWS["supervised-text"].load(data__name=f"csv:{path}", eval__data=None)
        return Run(config, str(workdir))

    run = begin({"yes": "yes", "no": "no"})
    assert trained_run.read_config(workdir).data.class_names == ("no", "yes")
    assert run.source.labels.tolist() == [1, 0] * 20
    with metrics.MetricWriter(workdir, resume_step=0) as writer:
        writer.write(1, {"train/loss": 1.0})
    with pytest.raises(UserError, match="the classes no, yes, and those of .* are a yes, no; name"):
        begin({"yes": "a yes", "no": "no"})
