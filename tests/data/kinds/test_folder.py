"""folder: whatever people have on their disks."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core.errors import UserError


def picture(value, size=(12, 10), mode="RGB"):
    return Image.new(mode, size, tuple([value] * len(mode)) if len(mode) > 1 else value)


def save(path, value=0, size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(value, size).save(path, **options)


def jpeg_bytes(size=(64, 64)):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "jpeg")
    return file.getvalue()


def load(path, split="train", **options):
    return data.load(f"folder:{path}", split, **{"image_size": 8, **options})


def values(source):
    """name -> (grey value, label) of every example."""
    batch = source.batch(np.arange(len(source)))
    assert (batch["index"] == np.arange(len(source))).all()
    grey = batch["image"][:, 4, 4, 0].tolist()
    return dict(zip(source.names, zip(grey, batch["label"].tolist(), strict=True), strict=True))


def test_flat_folder_without_labels(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", 10 * i)
    (tmp_path / "notes.txt").write_text("not an image, and not called one")
    source = load(tmp_path)
    assert values(source) == {f"{i}.png": (10 * i, -1) for i in range(5)}
    assert source.labels is None and source.num_classes is None and source.spec.num_classes is None
    assert source.spec.arrays["image"].shape == (8, 8, 3) and not source.in_memory
    assert data.splits(f"folder:{tmp_path}", image_size=8) == ("train",)
    with pytest.raises(UserError, match="unknown split 'test'; splits: train"):
        load(tmp_path, "test")


def test_class_folders_hold_a_fifth_out(tmp_path):
    for name, value in (("cat", 100), ("dog", 200)):
        for i in range(60):
            save(tmp_path / name / f"deep/{i % 3}" / f"{i}.png", value)
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.class_names == ("cat", "dog") and train.num_classes == 2
    assert len(train) + len(test) == 120 and 12 <= len(test) <= 36
    assert not set(train.names) & set(test.names)
    assert all(found == ((100, 0) if name[:3] == "cat" else (200, 1))
               for name, found in (values(train) | values(test)).items())  # fmt: skip
    # A slice is a random sample of both classes.
    assert 0.2 < load(tmp_path, "train[:50%]").labels.mean() < 0.8
    together = load(tmp_path, "all")
    assert list(together.names) == [*train.names, *test.names]
    np.testing.assert_array_equal(together.labels, np.concatenate([train.labels, test.labels]))
    # Files added later leave the others in their split.
    save(tmp_path / "cat" / "new.png", 100)
    assert set(load(tmp_path, "test").names) - {"cat/new.png"} == set(test.names)


def test_split_folders(tmp_path):
    for split, names in (("train", ("a", "b", "c")), ("val", ("b", "c"))):
        for name in names:
            save(tmp_path / split / name / "1.png", ord(name))
    assert values(load(tmp_path)) == {f"{n}/1.png": (ord(n), i) for i, n in enumerate("abc")}
    for split in ("validation", "val", "test"):  # no test images: the validation images
        assert values(load(tmp_path, split)) == {"b/1.png": (98, 1), "c/1.png": (99, 2)}
    assert len(load(tmp_path, "all")) == 5
    save(tmp_path / "test" / "x.png", 7)  # now there are; they have no labels
    assert values(load(tmp_path, "test")) == {"x.png": (7, -1)}
    assert load(tmp_path, "test").num_classes is None and load(tmp_path).num_classes == 3
    with pytest.raises(UserError, match=r"splits: train, validation, test. Did you mean 'train'\?"):
        load(tmp_path, "tran")


def test_a_class_called_train(tmp_path):
    for name in ("train", "car", "bus"):
        for i in range(9):
            save(tmp_path / name / f"{i}.png", 1)
    assert load(tmp_path).class_names == ("bus", "car", "train")
    assert len(load(tmp_path, "all")) == 27


def test_odd_names_hidden_files_and_links(tmp_path):
    save(tmp_path / "ünï cödé 雪.png", 1)
    save(tmp_path / "UPPER.PNG", 2, format="png")
    save(tmp_path / ".hidden.png", 3)
    save(tmp_path / ".git" / "x.png", 4)
    save(tmp_path / "only" / "nested" / "y.jpeg", 5)
    save(tmp_path / "6.png", 6)
    (tmp_path / "6.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))  # not UTF-8
    (tmp_path / "only" / "circle").symlink_to(tmp_path)
    found = values(load(tmp_path))
    expected = {"ünï cödé 雪.png": 1, "UPPER.PNG": 2, "only/nested/y.jpeg": 5}
    expected[os.fsdecode(b"\xff\xfe.png")] = 6
    assert {name: grey for name, (grey, _) in found.items()} == expected


def test_sizes_and_modes_mixed(tmp_path):
    for i, (mode, kind) in enumerate([
        ("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"),
        ("1", "png"), ("RGB", "webp"), ("RGB", "bmp"), ("I;16", "png"), ("RGB", "jpg"),
    ]):  # fmt: skip
        size = [(1, 1), (3000, 2), (40, 700), (64, 64)][i % 4]
        if mode == "I;16":
            image = Image.fromarray(np.full(size[::-1], 255 << 8, np.uint16))
        else:
            image = picture(255, size).convert(mode)
        image.save(tmp_path / f"{i}.{kind}")
    for channels in (1, 3):
        source = load(tmp_path, channels=channels, strict=True)
        image = source.batch(np.arange(10))["image"]
        assert image.shape == (10, 8, 8, channels) and image.min() >= 254


def broken_folder(path):
    for i in range(12):
        save(path / f"{i:02}.png", 10 * i)
    (path / "text.jpg").write_text("I am text")
    (path / "empty.png").write_bytes(b"")
    (path / "cut.jpg").write_bytes(jpeg_bytes()[:1500])
    return path


def test_unreadable_images_are_replaced_by_the_next_readable_one(tmp_path):
    source = load(broken_folder(tmp_path))
    names = list(source.names)
    batch = source.batch(np.arange(len(source)))
    bad = {"text.jpg", "empty.png", "cut.jpg"}
    for row in range(len(names)):
        rotated = names[row:] + names[:row]
        stand_in = next(other for other in rotated if other not in bad)
        assert batch["image"][row, 4, 4, 0] == 10 * int(stand_in[:2])
        assert batch["index"][row] == row
    assert {os.path.basename(name) for name in source.problems} == bad
    reasons = {os.path.basename(name): error for name, error in source.problems.items()}
    assert "not an image" in reasons["text.jpg"] and "empty" in reasons["empty.png"]
    assert "truncated" in reasons["cut.jpg"]
    summary = source.problem_summary()
    first = next(name for name in names if name in bad)
    start = "3 unreadable images replaced by the next readable one; first: "
    assert summary.startswith(f"{start}{tmp_path}/{first} (") and "\n" not in summary
    assert source.problem_summary("left out") == summary.replace(
        "replaced by the next readable one", "left out"
    )
    assert load(tmp_path).problem_summary() is None


def test_an_unreadable_image_of_a_slice_is_not_replaced_from_outside(tmp_path):
    broken_folder(tmp_path)
    names = list(load(tmp_path).names)
    last_bad = max(names.index(name) for name in ("text.jpg", "empty.png", "cut.jpg"))
    part = load(tmp_path, f"train[:{last_bad + 1}]")
    inside = {10 * int(name[:2]) for name in names[: last_bad + 1] if name[0].isdigit()}
    assert set(part.batch(np.arange(len(part)))["image"][:, 4, 4, 0].tolist()) <= inside


def test_evaluation_leaves_unreadable_images_out(tmp_path):
    source = load(broken_folder(tmp_path))
    seen = []
    for batch in data.epoch_batches(source, 4):
        seen += batch["index"][batch["mask"]].tolist()
    good = [i for i, name in enumerate(source.names) if name[0].isdigit()]
    assert seen == good


def test_strict_stops_at_an_unreadable_image(tmp_path):
    source = load(broken_folder(tmp_path), strict=True)
    with pytest.raises(UserError, match=rf"unreadable image {tmp_path}/\w+\.\w+ \(.*\); remove it"):
        source.batch(np.arange(len(source)))
    good = [i for i, name in enumerate(source.names) if name[0].isdigit()]
    assert source.batch(good)["image"].shape == (12, 8, 8, 3)


def test_nothing_readable_is_an_error(tmp_path):
    for i in range(110):
        (tmp_path / f"{i}.jpg").write_text("text")
    source = load(tmp_path)
    with pytest.raises(UserError, match=r"no readable image among 100 of .*; first: .*not an im"):
        source.batch([0])


def test_files_that_vanish_are_unreadable(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", 10 * i)
    source = load(tmp_path)
    (tmp_path / source.names[0]).unlink()
    assert source.batch([0])["image"][0, 0, 0, 0] == 10 * int(source.names[1][0])
    assert "No such file" in next(iter(source.problems.values()))


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        ("{tmp}/nowhere", {}, "folder:.*/nowhere does not exist"),
        ("{tmp}/file", {}, "is not a folder"),
        ("{tmp}", {}, "no images .* below"),
        ("{tmp}", {"split": "test"}, "no images .* below"),
        ("gs://bucket/images", {}, "not a local path; mount the bucket"),
        ("", {}, "names nothing; write folder:PATH"),
    ],
)
def test_errors(tmp_path, location, options, message):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=message) as caught:
        load(location.format(tmp=tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_images_need_a_size(tmp_path):
    save(tmp_path / "a.png", 10)
    with pytest.raises(UserError, match="data.image_size is not set"):
        load(tmp_path, image_size=None)


def test_names_are_kept_small(tmp_path):
    from ssl_jax.data.names import Names

    texts = [f"n{i:05}/ü{i}" for i in range(1000)]
    names = Names(texts)
    assert list(names) == texts and len(names) == 1000 and names[-1] == texts[-1]
    assert list(names[10:20]) == texts[10:20] and list(names[990:2000]) == texts[990:]
    assert list(names[5:2]) == [] and list(names[::100]) == texts[::100]
    assert list(names[10:20][2:4]) == texts[12:14]
    with pytest.raises(IndexError):
        names[1000]


def wide(path, largest, kind="png"):
    """An image of 16 bits a value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.linspace(0, largest, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(path.with_suffix(f".{kind}"))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_images_of_twelve_bits_in_files_of_sixteen_are_noted(kind, tmp_path):
    """They look black: the upper of their two bytes is kept."""
    for i, largest in enumerate((900, 4095, 2000)):
        wide(tmp_path / f"{i}", largest, kind)
    source = load(tmp_path, channels=1)
    assert source.batch(np.arange(3))["image"].max() == 15
    (note,) = source.notes()
    assert note.startswith(
        "3 of 3 images looked at with 16 bits a value are dark: the largest value of "
        f"{tmp_path}/1.{kind} is 4,095 of 65,535. "
    )
    # Images of 8 bits and those that use their 16 bits are no reason for a note, broken ones none.
    save(tmp_path / "x.png", 1)
    (tmp_path / "y.png").write_bytes(b"broken")
    wide(tmp_path / "z", 4096, kind)
    (note,) = load(tmp_path, channels=1).notes()
    assert note.startswith("3 of 4 images looked at with 16 bits a value are dark")
    # It is told of parts, and of decoded images too.
    (kept,) = data.load(f"folder:{tmp_path}", "train", image_size=8, channels=1, cache=True).notes()
    assert kept == note
    for i in range(3):
        (tmp_path / f"{i}.{kind}").unlink()
    assert load(tmp_path, channels=1).notes() == []


def test_colours_of_twelve_bits_are_noted(tmp_path):
    """Pillow reads 16-bit colours by their upper byte, so the file itself has to tell."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    for name, value in (("dark", 0x0FFF), ("bright", 0x1000)):
        header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)  # 16 bits, RGB
        rows = b"".join(b"\0" + struct.pack(">H", value) * 12 for _ in range(4))
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b"")
        )
    (note,) = load(tmp_path / "dark").notes()
    assert f"the largest value of {tmp_path}/dark/x.png is 4,095 of 65,535" in note
    assert load(tmp_path / "bright").notes() == []
