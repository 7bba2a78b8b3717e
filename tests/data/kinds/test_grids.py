"""dSprites and Shapes3D from small files of the published formats, and through TFDS's mock."""

import itertools
import pickle
import sys

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data import grids
from ssl_jax.data.kinds import dsprites, shapes3d

SIZES = (1, 3, 2, 5, 4, 2)  # of dSprites
HUES = (2, 3, 2, 2, 4, 2)  # of Shapes3D


def all_classes(sizes):
    return np.array(list(itertools.product(*map(range, sizes))), np.int64)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """A file like the published one, with images that tell their number; and these images."""
    classes = all_classes(SIZES)
    images = np.random.default_rng(0).integers(0, 2, (len(classes), 64, 64), np.uint8)
    path = tmp_path_factory.mktemp("sprites") / "sprites.npz"
    np.savez_compressed(
        path, imgs=images, latents_classes=classes, latents_values=classes / 3,
        metadata=np.array({"title": "small"}, object),
    )  # fmt: skip
    return path, images, classes


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    h5py = pytest.importorskip("h5py")
    classes = all_classes(HUES)
    images = np.random.default_rng(0).integers(0, 256, (len(classes), 64, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("rooms") / "rooms.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(5, 64, 64, 3))
        file.create_dataset("labels", data=classes / 4 - 0.5)  # values, not classes
    return path, images, classes


def check(kind, path, images, classes, names, white):
    """Both splits are all images with their factors and labels, each once, in random order."""
    seen = []
    for split in ("train", "test"):
        source = data.load(f"{kind}:{path}", split)
        assert (
            source.factor_names == names and source.spec.arrays["image"].shape == images.shape[1:]
        )
        batch = source.batch(np.arange(len(source)))
        np.testing.assert_array_equal(batch["image"], white * images[source.rows])
        np.testing.assert_array_equal(source.factors, classes[source.rows])
        np.testing.assert_array_equal(batch["label"], classes[source.rows, names.index("shape")])
        seen.append(source.rows)
    assert len(seen[1]) == len(images) // 10
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(images)))
    assert len(np.unique(classes[seen[1]][:, names.index("shape")])) > 1
    # A part of a split, in another order, and with another factor as label.
    source = data.load(f"{kind}:{path}", "train[3:9]", label="scale")
    batch = source.batch(np.array([4, 0, 4]))
    rows = seen[0][[7, 3, 7]]
    np.testing.assert_array_equal(batch["image"], white * images[rows])
    np.testing.assert_array_equal(batch["label"], classes[rows, names.index("scale")])
    assert source.num_classes == classes[:, names.index("scale")].max() + 1


def test_sprites(sprites):
    path, images, classes = sprites
    check("dsprites", path, images[..., None], classes, dsprites.FACTORS, white=255)


def test_rooms(rooms):
    check("shapes3d", *rooms, shapes3d.FACTORS, white=1)
    source = pickle.loads(pickle.dumps(data.load(f"shapes3d:{rooms[0]}", "test")))
    np.testing.assert_array_equal(source.batch(np.array([1]))["image"][0], rooms[1][source.rows[1]])


def test_any_combination_of_factors_is_looked_up(sprites):
    path, images, classes = sprites
    renderer = data.load(f"dsprites:{path}", "test").renderer
    factors = renderer.draw(np.random.default_rng(0), 400)
    for column, size in enumerate(SIZES):
        assert set(factors[:, column]) == set(range(size))
    shown = renderer.source(factors).batch(np.arange(400))["image"][..., 0]
    for row in (0, 7, 399):
        (number,) = np.flatnonzero((classes == factors[row]).all(axis=1))
        np.testing.assert_array_equal(shown[row], 255 * images[number])


def test_an_incomplete_grid_has_no_renderer(sprites, tmp_path):
    _, images, classes = sprites
    np.savez(tmp_path / "part.npz", imgs=images[:-1], latents_classes=classes[:-1])
    assert data.load(f"dsprites:{tmp_path}/part.npz").renderer is None
    np.savez(tmp_path / "other.npz", imgs=images, latents_classes=classes[::-1])
    assert data.load(f"dsprites:{tmp_path}/other.npz").renderer is None


def test_other_sizes(sprites):
    batch = data.load(f"dsprites:{sprites[0]}", image_size=32, channels=3).batch(np.arange(2))
    assert batch["image"].shape == (2, 32, 32, 3) and batch["image"].std() > 20


def test_facts_are_those_of_the_published_files():
    for module, counts in ((dsprites, (663_552, 73_728)), (shapes3d, (432_000, 48_000))):
        known = module.KIND.known("x", {"label": "shape"})
        assert tuple(known.splits.values()) == counts and known.image_size == 64
        assert np.prod(module.NUM_VALUES) == module.NUM_IMAGES == sum(counts)
    rows = grids.rows_of(1000)
    assert {split: len(part) for split, part in rows.items()} == {"train": 900, "test": 100}
    assert abs(rows["test"].mean() - 500) < 100


def refused(name):
    with pytest.raises(UserError) as told:
        data.load(name)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_is_no_such_file_is_named(sprites, tmp_path, monkeypatch):
    _, images, classes = sprites
    assert "No such file" in refused(f"dsprites:{tmp_path}/none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    assert "cannot be read: File is not a zip file" in refused(f"dsprites:{tmp_path}/text.npz")
    np.savez(tmp_path / "a.npz", imgs=images)
    assert refused(f"dsprites:{tmp_path}/a.npz").endswith("no array latents_classes; it has imgs")
    np.savez(tmp_path / "b.npz", imgs=images * 255, latents_classes=classes)
    assert "imgs has the value 255; pixels are 0 or 1" in refused(f"dsprites:{tmp_path}/b.npz")
    np.savez(tmp_path / "c.npz", imgs=images.astype(float), latents_classes=classes)
    assert "imgs is float64" in refused(f"dsprites:{tmp_path}/c.npz")
    np.savez(tmp_path / "d.npz", imgs=images, latents_classes=classes[:7])
    assert "holds 240 images, and factors of shape (7, 6)" in refused(f"dsprites:{tmp_path}/d.npz")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'ssl_jax[h5]'" in refused("shapes3d:x.h5")


def test_rooms_that_are_no_such_file_are_named(rooms, tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "text.h5").write_text("no file of this kind")
    assert "text.h5 cannot be read" in refused(f"shapes3d:{tmp_path}/text.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = rooms[1][:2]
    assert refused(f"shapes3d:{tmp_path}/a.h5").endswith("has no array labels; it has images")


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("dsprites", ("shape", "scale", "orientation", "x_position", "y_position")),
        ("shapes3d", ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")),
    ],
)
def test_through_tfds_their_factors_are_read_when_they_are_asked_for(name, factors):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=12):
        source = data.load(f"tfds:{name}", "train", data_dir="/nonexistent")
        assert source.factor_names == factors and source.factors is None
        part = source.select(2, 7)
        assert part.factors is None
        every = source.read_factors()
        assert every.shape == (12, len(factors)) and every.dtype == np.float32
        np.testing.assert_array_equal(part.read_factors(), every[2:7])
        taken = source.take(np.array([1, 4]))
        np.testing.assert_array_equal(taken.factors, every[[1, 4]])
        shape = source.read_labels()
        np.testing.assert_array_equal(shape, every[:, factors.index("shape")])
        assert source.num_classes == {"dsprites": 3, "shapes3d": 4}[name]
