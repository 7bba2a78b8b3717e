"""Masks: rendered by `shapes`, and beside images in the layouts of VOC and ADE20K."""

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import shapes


def save_pair(root, image, mask, values, mode="P"):
    """A grey image as bright as its mask, and the mask."""
    for path in (image, mask):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.repeat(values[..., None], 3, -1).astype(np.uint8))
    picture.save(root / image, **({"quality": 100} if image.endswith("jpg") else {}))
    drawn = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        drawn.putpalette([7 * i % 256 for i in range(768)])
    drawn.save(root / mask)


def voc(root):
    rng = np.random.default_rng(0)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", "abcde"), ("val", "fg")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{n}\n" for n in names))
        for name in names:
            values = rng.choice([0, 5, 20, 255], (6, 10))
            save_pair(root, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", values)
    return str(root)


def load(name, split="train", **options):
    return data.load(name, split, image_size=6, **options)


def test_voc_masks_are_cut_like_their_images(tmp_path):
    source = load(f"voc2012:{voc(tmp_path)}")
    assert len(source) == 5 and source.labels is None
    assert len(source.masks.classes) == 21 and source.masks.classes[20] == "tvmonitor"
    masks = source.masks.read(np.array([3, 0]))
    for row, index in enumerate((3, 0)):
        path = tmp_path / "SegmentationClass" / f"{source.names[index][11]}.png"
        np.testing.assert_array_equal(masks[row], np.asarray(Image.open(path))[:, 2:8])
    image = source.batch(np.array([3]))["image"][0, ..., 0]
    assert np.abs(image.astype(int) - masks[0]).mean() < 12  # JPEG; both show the same pixels
    assert len(load(f"voc2012:{tmp_path}", "test")) == 2


def test_parts_of_a_split_keep_their_masks(tmp_path):
    name = f"voc2012:{voc(tmp_path)}"
    whole, part = load(name), load(name, "train[40%:]")
    np.testing.assert_array_equal(part.masks.read(np.arange(3)), whole.masks.read(np.arange(2, 5)))
    both = load(name, "train+val")
    np.testing.assert_array_equal(both.masks.read([5]), load(name, "val").masks.read([0]))
    cached = load(name, cache=True)
    np.testing.assert_array_equal(cached.masks.read([4]), whole.masks.read([4]))


def test_ade20k_counts_from_one(tmp_path):
    values = np.array([[0, 1], [150, 2]]).repeat(3, 0).repeat(3, 1)
    for folder in ("training", "validation"):
        save_pair(tmp_path, f"images/{folder}/x.jpg", f"annotations/{folder}/x.png", values, "L")
    source = load(f"ade20k:{tmp_path}")
    mask = source.masks.read(np.array([0]))[0]
    np.testing.assert_array_equal(mask[::3, ::3], [[255, 0], [149, 1]])
    assert source.masks.classes[:2] == ("1", "2")
    rows = "".join(f"{i}\t.1\t1\t1\tname{i}, other\n" for i in range(1, 151))
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + rows)
    assert load(f"ade20k:{tmp_path}").masks.classes[149] == "name150"
    assert len(load(f"ade20k:{tmp_path}", "val")) == 1


def test_any_folders_of_the_same_names(tmp_path):
    values = np.arange(36).reshape(6, 6) % 3
    for split in ("train", "test"):
        save_pair(tmp_path, f"images/{split}/a/x.png", f"masks/{split}/a/x.png", values)
    source = load(f"segmented:{tmp_path}", num_classes=3)
    np.testing.assert_array_equal(source.masks.read([0])[0], values)
    ignored = load(f"segmented:{tmp_path}", num_classes=2, zero_counts=False)
    np.testing.assert_array_equal(ignored.masks.read([0])[0], np.where(values, values - 1, 255))


def damage(root, what):
    mask = root / "masks/train/x.png"
    if what == "missing":
        mask.unlink()
    elif what == "torn":
        mask.write_bytes(mask.read_bytes()[:60])
    elif what == "colours":
        Image.open(mask).convert("RGB").save(mask)
    elif what == "size":
        Image.open(mask).resize((6, 5)).save(mask)
    elif what == "class":
        Image.fromarray(np.full((6, 6), 9, np.uint8)).save(mask)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "missing",
            "1 of 1 images below images/train have no mask below masks/train; first: x.png",
        ),
        ("torn", "mask .*x.png or its image cannot be read"),
        ("colours", "mask .*x.png has mode RGB; save"),
        ("size", "x.png has 6x5 pixels, and its image 6x6"),
        ("class", "x.png has the value 9, but there are 2 classes, 0 to 1"),
    ],
)
def test_damaged_masks_are_named(what, message, tmp_path):
    save_pair(tmp_path, "images/train/x.png", "masks/train/x.png", np.zeros((6, 6)))
    damage(tmp_path, what)
    with pytest.raises(UserError, match=message) as told:
        load(f"segmented:{tmp_path}").masks.read(np.array([0]))
    assert "\n" not in str(told.value)


def test_wrong_folders_are_refused(tmp_path):
    for name, message in (
        ("voc2012", "has no ImageSets/Segmentation/train.txt"),
        ("ade20k", "has no folder images/training"),
        ("segmented", "has no folders of images below images/"),
    ):
        with pytest.raises(UserError, match=message):
            load(f"{name}:{tmp_path}")


def test_shapes_render_the_masks_of_their_images():
    source = data.load("shapes", image_size=32, num_generated=60)
    masks = source.masks.read(np.arange(60))
    assert source.masks.classes == ("ground", *shapes.SHAPES)
    images = source.batch(np.arange(60))["image"].astype(int)
    for image, mask, label in zip(images, masks, source.labels, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}
        ground = image[0, 0]
        ink = np.median(image[mask > 0], axis=0)
        nearer_ink = np.abs(image - ink).sum(-1) < np.abs(image - ground).sum(-1)
        if np.abs(ink - ground).sum() > 60:
            assert np.mean(nearer_ink == (mask > 0)) > 0.985
    half = data.load("shapes", "train[50%:]", image_size=32, num_generated=60)
    np.testing.assert_array_equal(half.masks.read([0]), masks[[30]])
