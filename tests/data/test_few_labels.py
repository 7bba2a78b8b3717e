"""A part of the labels: balanced, nested, the same everywhere, in every kind of source."""

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data, parallel
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.data.few_labels import FewLabels, label_order
from ssl_jax.data.kinds import shapes
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.probing import Prober
from tests.data.kinds.test_tar import png, write
from tests.methods.table import ROWS


def section(**values):
    config = base_config().data
    with config.unlocked():
        config.options.update(values.pop("options", {}))
        config.update(values)
    return config


def draw(seed, n=1000, classes=7, unlabelled=0.2):
    """Labels of classes of very different sizes, some missing."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    labels = rng.choice(classes, n, p=weights).astype(np.int32)
    return np.where(rng.random(n) < unlabelled, -1, labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_are_balanced_and_smaller_parts_lie_in_larger_ones(seed):
    labels = draw(seed)
    order = label_order(labels, seed)
    assert sorted(order) == np.flatnonzero(labels >= 0).tolist()
    available = np.bincount(labels[labels >= 0])
    for count in range(1, len(order) + 1):
        # Every order has nested beginnings; what has to hold of them is the balance.
        counts = np.bincount(labels[order[:count]], minlength=7)
        not_all = counts < available
        level = counts.max()
        assert (counts[not_all] >= level - 1).all(), (count, counts)
        assert (counts[~not_all] == available[~not_all]).all()


def test_it_is_a_function_of_labels_and_seed():
    labels = draw(0)
    np.testing.assert_array_equal(label_order(labels, 3), label_order(labels.copy(), 3))
    first, other = (set(label_order(labels, seed)[:70].tolist()) for seed in (3, 4))
    assert len(first & other) < 40  # of 70, by chance about 6
    # Which class comes first in a round is drawn, too.
    starts = {int(labels[label_order(labels, seed)[0]]) for seed in range(20)}
    assert len(starts) > 3
    # And so is the choice within a class: not the first ones of the split.
    chosen = label_order(np.zeros(1000, int), 0)[:100]
    assert 350 < chosen.mean() < 650


# ------------------------------------------------------------------------------- in every source


def folder(path):
    for i in range(60):
        (path / "abc"[i % 3]).mkdir(exist_ok=True)
        Image.new("L", (5, 5), 4 * i).save(path / "abc"[i % 3] / f"{i}.png")
    (path / "a" / "broken.png").write_text("")
    return {"name": f"folder:{path}", "image_size": 4, "channels": 1}


def shards(path):
    for shard in range(3):
        members = []
        for i in range(20 * shard, 20 * shard + 20):
            members.append((f"{i}.png", png(4 * i)))
            if i % 5:
                members.append((f"{i}.cls", str(i % 2).encode()))
        write(path / f"{shard}.tar", members)
    return {"name": f"tar:{path}/*.tar", "image_size": 4}


SOURCES = {
    "digits": lambda _: {"name": "digits", "split": "train[:80%]"},
    "shapes": lambda _: {"name": "shapes", "options": {"num_generated": 60}},
    "folder": folder,
    "two-splits": lambda path: folder(path) | {"split": "train+test"},
    "tar": shards,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_dropping_and_keeping_agree(kind, tmp_path, monkeypatch):
    if kind == "shapes":  # drawn whenever they are read
        monkeypatch.setattr(shapes, "_IN_MEMORY_BYTES", 0)
    values = SOURCES[kind](tmp_path)
    whole = data.from_config(section(**values))
    readable = {}
    batch = whole.batch(np.arange(len(whole)))
    for row, label in enumerate(batch["label"]):
        if not any(name.endswith("broken.png") for name in [whole.example_name(row)]):
            readable[row] = (batch["image"][row].tobytes(), int(label))
    few = {"labelled_fraction": 0.3, "labels_seed": 1}
    dropped = data.from_config(section(**values, **few))
    kept = data.from_config(section(**values, **few, unlabelled="keep"))
    count = round(0.3 * len(whole))
    assert len(dropped) == count and dropped.available == len(whole)
    assert len(kept) == len(whole) and kept.available is None
    assert dropped.num_classes == kept.num_classes == whole.num_classes
    assert dropped.spec == data.spec_from_config(
        section(**few, **values | {"num_examples": len(whole), "num_classes": whole.num_classes})
    )

    labelled = np.flatnonzero(kept.labels >= 0)
    assert len(labelled) == count
    np.testing.assert_array_equal(kept.labels[labelled], dropped.labels)
    counts = np.bincount(dropped.labels, minlength=whole.num_classes)
    assert counts.max() - counts.min() <= 1

    # Also where other processes read them.
    for source in (dropped, pickle.loads(pickle.dumps(dropped))):
        batch = source.batch(np.arange(count))
        np.testing.assert_array_equal(batch["index"], np.arange(count))
        for row, index in enumerate(labelled):
            if index in readable:
                assert (batch["image"][row].tobytes(), batch["label"][row]) == readable[index]
            # What replaces a broken image is of the part, too.
            assert batch["label"][row] in dropped.labels
    batch = kept.batch(np.arange(len(kept)))
    for row in readable:
        expected = kept.labels[row]
        assert (batch["image"][row].tobytes(), batch["label"][row]) == (readable[row][0], expected)
    if dropped.names is not None:
        assert [dropped.names[i] for i in range(count)] == [whole.names[i] for i in labelled]
    if whole.factors is not None:
        np.testing.assert_array_equal(dropped.factors, whole.factors[labelled])


def test_a_broken_image_is_replaced_by_one_of_the_part(tmp_path):
    """Never by an image that was left out, nor with a label that was taken away."""
    values = folder(tmp_path)
    for path in (tmp_path / "b").glob("*.png"):
        path.write_text("")
    few = section(**values, labelled_fraction=0.4)
    source = data.from_config(few)
    own = {name for name in (source.names[i] for i in range(len(source))) if name[0] in "ac"}
    batch = source.batch(np.arange(len(source)))
    assert source.problems
    shown = {
        f"{'abc'[value // 4 % 3]}/{value // 4}.png" for value in batch["image"][:, 0, 0, 0].tolist()
    }
    assert shown <= own
    with few.unlocked():
        few.unlabelled = "keep"
    kept = data.from_config(few)
    batch = kept.batch(np.arange(len(kept)))
    value = batch["image"][:, 0, 0, 0] // 4
    for row in np.flatnonzero(batch["label"] >= 0):
        assert f"{'abc'[value[row] % 3]}/{value[row]}.png" in own


def test_a_cached_row_that_could_not_be_read_stays_marked(tmp_path):
    source = data.load(**folder(tmp_path), split="all", cache=True)
    (bad,) = source.bad_rows
    for rows in (np.array([0, bad]), np.array([bad]), np.arange(len(source))):
        part = source.take(rows)
        (batch,) = data.epoch_batches(part, len(rows))
        np.testing.assert_array_equal(batch["mask"], rows != bad)
    assert not source.take(np.array([bad - 1, bad + 1])).bad_rows
    assert list(source.select(bad - 1, bad + 1).bad_rows) == [1]


# ------------------------------------------------------------------------------------ the config


@pytest.mark.parametrize("unlabelled", ["drop", "keep"])
@pytest.mark.parametrize("split", ["train", "train[:80%]", "train[100:333]+test"])
def test_the_spec_without_the_data_is_the_spec_with_them(split, unlabelled):
    few = section(split=split, labelled_fraction=0.1, unlabelled=unlabelled)
    assert data.spec_from_config(few) == data.from_config(few).spec


def test_paper_scale_specs_need_no_data():
    for fraction, count in ((0.01, 12_812), (0.1, 128_117)):
        few = section(name="tfds:imagenet2012", image_size=224, labelled_fraction=fraction)
        assert data.spec_from_config(few).num_examples == count
        assert data.split_size(few) == 1_281_167


def test_probes_have_all_labels():
    config = ROWS["supervised"].load(data__labelled_fraction=0.05)
    mesh = parallel.make_mesh()
    prober = Prober(config, mesh)
    assert len(data.from_config(config.data)) == 72
    assert len(prober.train) == 1438 and (prober.train.labels >= 0).all()
    assert len(prober.test) == 359


def test_the_preflight_says_how_many_of_how_many():
    said = {}
    for unlabelled in ("drop", "keep"):
        config = ROWS["supervised"].load(data__labelled_fraction=0.05, data__unlabelled=unlabelled)
        spec = data.spec_from_config(config.data)
        experiment = Experiment.build(config, spec, parallel.make_mesh())
        said[unlabelled] = dict(preflight.lines(experiment))["data"]
    assert said == {
        "drop": "digits[train], 72 labelled examples of 1,438, the others left out, 10 classes",
        "keep": "digits[train], 1,438 examples, 72 of them labelled, 10 classes",
    }


def test_a_class_that_runs_out_is_said(caplog):
    source = data.load("digits")
    rare = np.flatnonzero((source.labels > 1) | (np.cumsum(source.labels <= 1) <= 20))
    part = source.take(rare)
    with caplog.at_level(logging.WARNING):
        FewLabels(0.02, "drop").select(part)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        chosen = FewLabels(0.5, "drop").select(part)
    assert len(chosen) == round(0.5 * len(rare))
    counts = np.bincount(chosen.labels)
    assert counts[:2].sum() == 20 and counts[2:].max() - counts[2:].min() <= 1
    (record,) = caplog.records
    assert f"2 of 10 classes have fewer examples than the {counts.max()} that others give" in (
        record.getMessage()
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labelled_fraction": 0.0}, "data.labelled_fraction is 0.0; use a number above 0"),
        ({"labelled_fraction": 1.5}, "data.labelled_fraction is 1.5; use a number above 0"),
        ({"labelled_fraction": float("nan")}, "data.labelled_fraction is nan"),
        (
            {"labelled_fraction": 0.1, "unlabelled": "kept"},
            "data.unlabelled is 'kept'; use one of drop, keep. Did you mean 'keep'?",
        ),
    ],
)
def test_bad_values_are_refused_when_the_config_is_resolved(values, message):
    with pytest.raises(UserError) as caught:
        ROWS["supervised"].load(**{f"data__{key}": value for key, value in values.items()})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_fewer_labels_than_classes_are_refused_with_and_without_the_data():
    message = (
        "data.labelled_fraction 0.001 of 1,438 examples is 1 label for 10 classes; use at least "
        "0.006955"
    )
    for call in (data.from_config, data.spec_from_config):
        with pytest.raises(UserError) as caught:
            call(section(labelled_fraction=0.001))
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert FewLabels(0.006955).labelled(1438, 10) == 10


def test_data_without_enough_labels_are_refused(tmp_path):
    for i in range(10):
        Image.new("L", (5, 5), i).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=r"labelled_fraction is 0.5, but folder:.* has no labels"):
        data.from_config(section(name=f"folder:{tmp_path}", image_size=4, labelled_fraction=0.5))
    shard = shards(tmp_path)
    with pytest.raises(UserError, match="0.9 of 60 examples is 54 labels, but .* has 48; use at "
                       "most 0.8"):  # fmt: skip
        data.from_config(section(**shard, labelled_fraction=0.9))
    assert len(data.from_config(section(**shard, labelled_fraction=0.8))) == 48
