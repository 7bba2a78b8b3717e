"""tar: WebDataset-style shards."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core.errors import UserError


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (6, 6), (value,) * 3).save(file, "png")
    return file.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def load(location, split="train", **options):
    return data.load(f"tar:{location}", split, image_size=4, **options)


def values(source):
    batch = source.batch(np.arange(len(source)))
    return list(zip(batch["image"][:, 0, 0, 0].tolist(), batch["label"].tolist(), strict=True))


def test_shards_in_order_with_labels(tmp_path):
    for shard in range(12):
        write(tmp_path / f"s-{shard:03}.tar", [
            (f"{shard}a.png", png(2 * shard)), (f"{shard}a.cls", b"3"),
            (f"{shard}b.cls", b"1\n"), (f"{shard}b.png", png(2 * shard + 1)),
        ])  # fmt: skip
    expected = [(i, 3 if i % 2 == 0 else 1) for i in range(24)]
    for pattern in ("s-{000..011}.tar", "s-*.tar", "s-0{00..09}.tar", "{s,t}-0??.tar"):
        found = values(load(tmp_path / pattern))
        assert found == (expected[:20] if "09" in pattern else expected)
    source = load(tmp_path / "*.tar", "train[3:9]")
    assert values(source) == expected[3:9]
    assert source.num_classes == 4 and list(source.names)[:2] == ["1b.png", "2a.png"]
    np.testing.assert_array_equal(source.labels, [1, 3] * 3)


def test_labels_in_json_and_members_of_other_kinds(tmp_path):
    write(tmp_path / "a.tar", [
        ("dir/x.seg.png", png(9)),  # another view of x, not its image
        ("dir/x.json", json.dumps({"label": 5, "caption": "ü"}).encode()),
        ("dir/x.png", png(1)), ("dir/x.txt", b"caption"),
        ("other/x.PNG", png(2)),  # the same name in another folder is another example
        ("y.png", png(3)), ("y.json", b"not json"), ("z.png", png(4)), ("z.json", b'{"a": 1}'),
        ("long/" * 60 + "name.png", png(5)),  # longer than a plain tar header holds
    ])  # fmt: skip
    assert values(load(tmp_path / "a.tar")) == [(1, 5), (2, -1), (3, -1), (4, -1), (5, -1)]


def test_labels_that_cannot_be_read_are_counted_and_named(tmp_path):
    path = tmp_path / "a.tar"
    readable = [
        ("a.cls", b"2"), ("b.cls", b" -1\n"), ("c.cls", b""), ("d.json", b"{}"),
        ("e.json", b'{"label": null}'), ("f.json", b'{"label": -1}'), ("g.json", b"[1]"),
    ]  # fmt: skip
    bad = [
        ("h.cls", b"cat"), ("i.cls", b"-2"), ("j.cls", b"1.5"), ("k.json", b'{"label": "cat"}'),
        ("l.json", b'{"label": true}'), ("m.json", b"not json"), ("n.cls", b"9999999999"),
    ]  # fmt: skip
    images = [(f"{name[0]}.png", png(1)) for name, _ in readable + bad]
    write(path, images + readable)
    source = load(path)
    assert source.labels.tolist() == [2] + [-1] * 13 and source.notes() == []
    write(path, images + readable + bad)
    source = load(path)
    assert source.labels.tolist() == [2] + [-1] * 13 and source.num_classes == 3
    assert source.notes() == [
        f"7 labels of tar:{path}[train] cannot be read, and their images have none; first: "
        f"{path}:h.cls ('cat'), no number from 0"
    ]
    named = [label.rpartition(":")[2] for label in source.bad_labels]
    assert named[1:4] == ["i.cls (-2)", "j.cls ('1.5')", "k.json ('cat')"]


def test_without_labels(tmp_path):
    write(tmp_path / "a.tar", [("x.png", png(1)), ("y.png", png(2))])
    source = load(tmp_path / "a.tar")
    assert values(source) == [(1, -1), (2, -1)]
    assert source.labels is None and source.num_classes is None


def test_split_in_the_pattern(tmp_path):
    for split, value in (("train", 1), ("val", 2)):
        for shard in range(2):
            write(tmp_path / f"in-{split}-{shard}.tar", [(f"{shard}.png", png(value))])
    pattern = tmp_path / "in-{split}-{0..1}.tar"
    assert data.splits(f"tar:{pattern}", image_size=4) == ("train", "val")
    assert values(load(pattern, "val")) == [(2, -1)] * 2
    assert values(load(tmp_path / "in-{split}-*.tar", "all")) == [(1, -1)] * 2 + [(2, -1)] * 2
    with pytest.raises(UserError, match="unknown split 'test'; splits: train, val"):
        load(pattern, "test")


def test_a_corrupt_member_is_replaced(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [("x.png", png(1)), ("y.png", b"broken"), ("z.png", png(3)), ("y.cls", b"2")])
    source = load(path)
    assert values(source) == [(1, -1), (3, -1), (3, -1)]
    assert source.problems == {f"{path}:y.png": "ValueError: not an image file"}
    with pytest.raises(UserError, match="unreadable image .*a.tar:y.png"):
        values(load(path, strict=True))


def test_a_truncated_shard_gives_what_is_whole(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [(f"{i}.png", png(i)) for i in range(5)])
    for length, count in ((1024 * 3 + 520, 3), (1024 * 3 + 100, 3), (1024 * 3, 3)):
        whole = path.read_bytes()
        cut = tmp_path / f"cut{length}.tar"
        cut.write_bytes(whole[:length])
        source = load(cut)
        assert values(source) == [(i, -1) for i in range(count)]
        assert f"{cut} (truncated: {length:,} bytes" in source.problem_summary()
        assert f"{count} are used" in source.problem_summary()
        with pytest.raises(UserError, match=r"cut.*tar: truncated.*; data.strict=False"):
            load(cut, strict=True)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{tmp}/none-*.tar", "no file matches tar:.*none"),
        ("{tmp}/none-{{split}}.tar", "no file matches tar:.*none"),
        ("{tmp}/empty.tar", "no images .* in tar:.*empty.tar"),
        ("{tmp}/text.tar", "not an uncompressed tar file"),
        ("{tmp}/packed.tar.gz", "not an uncompressed tar file .*decompress it"),
        ("gs://bucket/x.tar", "not a local path"),
    ],
)
def test_errors(tmp_path, pattern, message):
    write(tmp_path / "empty.tar", [("x.txt", b"text")])
    (tmp_path / "text.tar").write_text("text " * 500)
    write(tmp_path / "plain", [("x.png", png(1))])
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load(pattern.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)
