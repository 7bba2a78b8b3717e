"""`idx:` and `fashion_mnist`: files that the tests write, whole and damaged."""

import gzip
import pathlib

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import fashion_mnist


def idx_bytes(array, kind=0x08):
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + shape + array.tobytes()


def write(folder, *, zipped=False, prefix="", test="t10k", dot="-", sizes=(20, 7), side=(6, 6)):
    """Writes a data set; its arrays by file."""
    rng, arrays = np.random.default_rng(0), {}
    folder.mkdir(exist_ok=True, parents=True)
    for split, size in zip(("train", test), sizes, strict=True):
        arrays[f"{split}-images"] = rng.integers(0, 256, (size, *side), np.uint8)
        arrays[f"{split}-labels"] = np.arange(size, dtype=np.uint8) % 5
    for name, array in arrays.items():
        path = folder / f"{prefix}{name}{dot}idx{array.ndim}-ubyte{'.gz' * zipped}"
        content = idx_bytes(array)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.mark.parametrize("options", [{}, {"zipped": True, "test": "test"}, {"dot": "."}])
def test_images_and_labels_are_those_of_the_files(tmp_path, options):
    arrays = write(tmp_path, **options)
    assert data.splits(f"idx:{tmp_path}") == ("train", "test")
    for split, name in (("train", "train"), ("test", options.get("test", "t10k"))):
        source = data.load(f"idx:{tmp_path}", split)
        batch = source.batch(np.arange(len(source)))
        np.testing.assert_array_equal(batch["image"][..., 0], arrays[f"{name}-images"])
        np.testing.assert_array_equal(batch["label"], arrays[f"{name}-labels"])
        assert source.num_classes == 5 and source.class_names is None


def test_one_data_set_of_a_folder_of_several(tmp_path):
    write(tmp_path, prefix="emnist-digits-")
    arrays = write(tmp_path, prefix="emnist-letters-", test="test", sizes=(9, 4))
    source = data.load(f"idx:{tmp_path}/emnist-letters", transpose=True)
    images = source.batch(np.arange(9))["image"][..., 0]
    np.testing.assert_array_equal(images, arrays["train-images"].swapaxes(1, 2))
    with pytest.raises(UserError, match=r"several data sets; use one of .*/emnist-digits, idx:"):
        data.load(f"idx:{tmp_path}")


def test_another_canvas(tmp_path):
    write(tmp_path, side=(6, 8))
    with pytest.raises(UserError, match="data.image_size is not set"):
        data.load(f"idx:{tmp_path}")
    image = data.load(f"idx:{tmp_path}", image_size=12, channels=3).batch(np.arange(3))["image"]
    assert image.shape == (3, 12, 12, 3) and image.std() > 10


def damage(folder, name, change, zipped=False):
    """Rewrites a file with its content changed."""
    (path,) = folder.glob(f"{name}*")
    content = path.read_bytes()
    path.write_bytes(change(gzip.decompress(content) if zipped else content))
    return path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images", lambda x: b"\x89PNG" + x[4:], "not an IDX file: it begins with '89 50"),
        ("train-images", lambda x: b"", "not an IDX file"),
        ("train-images", lambda x: x[:9], "ends within its header"),
        ("train-images", lambda x: x[:-1], r"20 x 6 x 6 = 720 bytes, but it ends after 719"),
        ("train-images", lambda x: x + b"0", "720 bytes, but it has more"),
        (
            "train-images",
            lambda x: x[:2] + b"\x0d" + x[3:],
            "float32 in 3 dim.*expected uint8 in 3",
        ),
        ("train-images", lambda x: x[:4] + b"\xff" * 12 + x[16:], "but it ends after 720"),
        ("train-labels", lambda x: idx_bytes(np.zeros(19, np.uint8)), "20 images, but .* 19 label"),
        ("train-labels", lambda x: idx_bytes(np.zeros((20, 1), np.uint8)), "2 dim.*expected .* 1"),
        ("train-images", lambda x: idx_bytes(np.zeros((0, 6, 6), np.uint8)), "0 images|20 labels"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, change, message):
    write(tmp_path)
    path = damage(tmp_path, name, change)
    with pytest.raises(UserError, match=message) as caught:
        data.load(f"idx:{tmp_path}", image_size=6)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [5, 200])
def test_a_truncated_gz_file_is_named(tmp_path, cut):
    write(tmp_path, zipped=True)
    path = damage(tmp_path, "train-images", lambda x: x[:cut])
    with pytest.raises(UserError, match=f"{path.name}.*cannot be read"):
        data.load(f"idx:{tmp_path}")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        data.load(f"idx:{tmp_path}/no/such")
    with pytest.raises(UserError, match="no IDX files; they are called train-images"):
        data.load(f"idx:{tmp_path}")
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-images.* is there, but no test-labels file"):
        data.load(f"idx:{tmp_path}")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    assert data.splits(f"idx:{tmp_path}") == ("train",)


def test_fashion_mnist_is_found_or_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "FOLDER", str(tmp_path / "none"))
    with pytest.raises(UserError, match="dataset-fashion-mnist.*data.options.folder.*tfds:fashion"):
        data.load("fashion_mnist")
    arrays = write(tmp_path / "here", side=(28, 28), zipped=True)
    monkeypatch.setattr(fashion_mnist, "FOLDER", str(tmp_path / "here"))
    for options in ({}, {"folder": f"{tmp_path}/here"}):
        source = data.load("fashion_mnist", "test", **options)
        assert (source.num_classes, source.class_names[9]) == (10, "Ankle boot")
        image = source.batch(np.arange(7))["image"]
        np.testing.assert_array_equal(image[..., 0], arrays["t10k-images"])


def test_the_installed_fashion_mnist_is_what_its_facts_say():
    if not pathlib.Path(fashion_mnist.FOLDER).is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    for split, size in fashion_mnist.SIZES.items():
        source = data.load("fashion_mnist", split)
        np.testing.assert_array_equal(np.bincount(source.labels), [size // 10] * 10)
