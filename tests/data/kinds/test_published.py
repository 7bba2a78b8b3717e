"""Published layouts of the data sets of metric learning, and pairs and triplets."""

import numpy as np
import pytest
from scipy.io import savemat

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.samplers import groups
from ssl_jax.data.samplers.pk import PK
from ssl_jax.data.samplers.shuffle import Shuffle
from ssl_jax.data.tuples import TupleSource
from ssl_jax.experiment.build import Experiment
from tests.data.kinds.test_folder import save
from tests.data.test_few_labels import section
from tests.methods.table import ROWS


def cub200(root):
    names = ["001.Albatross", "002.Auklet", "010.Bunting"]
    images = [(f"{names[i % 3]}/{i}.png", i % 3 + 1, i % 2) for i in range(12)]
    for i, (path, _, _) in enumerate(images):
        save(root / "images" / path, 10 * i)
    rows = list(enumerate(images, 1))
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, (path, _, _) in rows))
    (root / "image_class_labels.txt").write_text("".join(f"{n} {c}\n" for n, (_, c, _) in rows))
    (root / "train_test_split.txt").write_text("".join(f"{n} {t}\n" for n, (_, _, t) in rows))
    (root / "classes.txt").write_text("".join(f"{n} {c}\n" for n, c in enumerate(names, 1)))


def cars196(root):
    kind = [("relative_im_path", "O"), ("class", "O"), ("test", "O")]
    rows = [(f"car_ims/{i:06d}.png", i % 4 + 1, int(i >= 8)) for i in range(12)]
    for i, (path, _, _) in enumerate(rows):
        save(root / path, 10 * i)
    names = np.array(["AM General", "Acura RL", "Audi", "BMW"], object)
    savemat(root / "cars_annos.mat",
            {"annotations": np.array(rows, kind)[None], "class_names": names[None]})  # fmt: skip


def sop(root):
    head = "image_id class_id super_class_id path\n"
    for split, first in (("train", 1), ("test", 4)):
        rows = []
        for i in range(6):
            product = first + i // 2
            path = f"bicycle_final/{product}_{i % 2}.png"
            save(root / path, 10 * product)
            rows.append(f"{i + 1} {product} 1 {path}\n")
        (root / f"Ebay_{split}.txt").write_text(head + "".join(rows))


def market1501(root):
    for name in ("0002_c1s1_000451_03", "0002_c2s1_000451_03", "0007_c1s1_000100_01"):
        save(root / "bounding_box_train" / f"{name}.png", 20)
    save(root / "query" / "0001_c1s1_001051_00.png", 50)
    for name in ("-1_c1s1_000401_03", "0000_c1s1_000151_01", "0001_c3s1_000551_00",
                 "0001_c1s1_001051_03"):  # fmt: skip
        save(root / "bounding_box_test" / f"{name}.png", 60)


def faces(root):
    for i in range(40):
        for number in (1, 2):
            save(root / f"Person_{i}" / f"Person_{i}_{number:04d}.png", 5 * i)


def values(source):
    """name -> (grey value, label) of every example."""
    batch = source.batch(np.arange(len(source)))
    grey = batch["image"][:, 4, 4, 0].tolist()
    return dict(zip(source.names, zip(grey, batch["label"].tolist(), strict=True), strict=True))


def load(name, path, split="train", **options):
    return data.load(f"{name}:{path}", split, image_size=8, **options)


def test_cub200(tmp_path):
    cub200(tmp_path)
    train, test = (load("cub200", tmp_path, split) for split in ("train", "test"))
    assert train.class_names == ("001.Albatross", "002.Auklet", "010.Bunting")
    assert values(train)["images/002.Auklet/7.png"] == (70, 1)
    assert {label for _, label in values(test).values()} == {0, 1, 2}
    assert len(train) == len(test) == 6 and train.num_classes == 3
    half = data.from_config(
        section(name=f"cub200:{tmp_path}", split="all", image_size=8, classes="train half")
    )
    assert half.class_names == ("001.Albatross",) and len(half) == 4
    facts = data.spec_from_config(section(name="cub200:missing", image_size=8))
    assert (facts.num_examples, facts.num_classes) == (5994, 200)
    (tmp_path / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(UserError, match="the lists in .* are about different images"):
        load("cub200", tmp_path)
    (tmp_path / "images.txt").unlink()
    with pytest.raises(UserError, match=r"images.txt cannot be read: No such file"):
        load("cub200", tmp_path)


def test_cars196(tmp_path):
    cars196(tmp_path)
    train, test = (load("cars196", tmp_path, split) for split in ("train", "test"))
    assert train.class_names == ("AM General", "Acura RL", "Audi", "BMW")
    assert len(train) == 8 and len(test) == 4
    assert values(train)["car_ims/000006.png"] == (60, 2)
    (tmp_path / "cars_annos.mat").write_text("no matrix")
    with pytest.raises(UserError, match="cars_annos.mat cannot be read as the annotations of Cars"):
        load("cars196", tmp_path)


def test_sop(tmp_path):
    sop(tmp_path)
    train, test = (load("sop", tmp_path, split) for split in ("train", "test"))
    assert train.class_names == ("1", "2", "3") and test.class_names == tuple("123456")
    assert values(train)["bicycle_final/2_1.png"] == (20, 1)
    assert values(test)["bicycle_final/4_0.png"] == (40, 3)
    both = load("sop", tmp_path, "all")
    assert both.num_classes == 6 and set(both.labels.tolist()) == set(range(6))
    (tmp_path / "Ebay_test.txt").write_text((tmp_path / "Ebay_train.txt").read_text())
    with pytest.raises(UserError, match="has product 1, which is in Ebay_train.txt too"):
        load("sop", tmp_path)
    (tmp_path / "Ebay_train.txt").write_text("1 1 1 a.png\n")
    with pytest.raises(UserError, match="does not begin with image_id"):
        load("sop", tmp_path)
    (tmp_path / "Ebay_train.txt").write_text("image_id class_id super_class_id path\n1 1\n")
    with pytest.raises(UserError, match="line 2 has 2 columns instead of 4: '1 1'"):
        load("sop", tmp_path)


def test_market1501(tmp_path):
    market1501(tmp_path)
    train, query, gallery = (
        load("market1501", tmp_path, split) for split in ("train", "query", "gallery")
    )
    assert train.class_names == ("0002", "0007") and train.num_classes == 2
    assert query.class_names == gallery.class_names == ("0002", "0007", "0000", "0001")
    assert query.labels.tolist() == [3] and query.factor_names == ("camera",)
    seen = dict(
        zip(gallery.names, zip(gallery.labels, gallery.factors[:, 0], strict=True), strict=True)
    )
    assert seen == {  # the junk is gone
        "bounding_box_test/0000_c1s1_000151_01.png": (2, 1),
        "bounding_box_test/0001_c3s1_000551_00.png": (3, 3),
        "bounding_box_test/0001_c1s1_001051_03.png": (3, 1),
    }
    save(tmp_path / "query" / "someone.png")
    with pytest.raises(UserError, match="someone.png is not named as in Market-1501"):
        load("market1501", tmp_path)


def test_faces(tmp_path):
    faces(tmp_path)
    train, test = (load("faces", tmp_path, split) for split in ("train", "test"))
    assert len(train) + len(test) == 80 and 0 < len(test) < 24
    assert train.class_names == test.class_names[: train.num_classes]
    assert test.num_classes == 40 and test.labels.min() == train.num_classes
    for name, (grey, label) in values(test).items():
        person = name.partition("/")[0]
        assert test.class_names[label] == person and grey == 5 * int(person[7:])
    (tmp_path / "pairs.txt").write_text("1\nPerson_1 1 2\nPerson_1 1 Person_2 1\n")
    assert data.splits(f"faces:{tmp_path}", image_size=8) == ("test",)
    assert len(load("faces", tmp_path, "test")) == 80
    with pytest.raises(UserError, match="has no folders of identities with images"):
        load("faces", tmp_path / "Person_1")


@pytest.mark.parametrize("kind", [cub200, cars196, sop, market1501, faces])
def test_missing_folders_and_files(kind, tmp_path):
    with pytest.raises(UserError, match=f"{kind.__name__}:.*nowhere.* does not exist"):
        load(kind.__name__, tmp_path / "nowhere")
    kind(tmp_path)
    if kind in (cub200, cars196, sop):
        for file in tmp_path.rglob("*.png"):
            file.unlink()
        with pytest.raises(UserError, match="lists .*png, which does not exist below"):
            load(kind.__name__, tmp_path)


# ------------------------------------------------------------------------------ pairs, triplets


def tuple_file(path, text):
    for i in range(6):
        save(path / "photos" / f"{i}.png", 10 * i)
    (path / "list.txt").write_text(text)
    return path / "list.txt"


@pytest.mark.parametrize("mark", [" ", "\t", ", "])
def test_pairs(tmp_path, mark):
    rows = [("0", "1", "1"), ("2", "3", "different"), ("0", "4", "0"), ("5", "0", "same")]
    text = "".join(f"photos/{a}.png{mark}photos/{b}.png{mark}{same}\n\n" for a, b, same in rows)
    source = load("pairs", tuple_file(tmp_path, text))
    assert isinstance(source, TupleSource) and len(source) == 8 and source.extent == 4
    assert source.spec.group_size == 2 and source.num_classes is None
    batch = source.batch(np.arange(8))
    assert (batch["image"][:, 4, 4, 0] // 10).tolist() == [0, 1, 2, 3, 0, 4, 5, 0]
    same = batch["label"][::2] == batch["label"][1::2]
    assert same.tolist() == [True, False, False, True]
    part = load("pairs", tmp_path / "list.txt", "train[50%:]")  # whole pairs
    assert part.names[0] == "photos/0.png" and len(part) == 4
    both = load("pairs", tmp_path / "list.txt", "train[:1]+train[3:]")
    assert [name[7] for name in both.names] == ["0", "1", "5", "0"]


def test_triplets(tmp_path):
    path = tuple_file(tmp_path, "photos/0.png photos/1.png photos/2.png\n" * 2)
    source = load("triplets", path)
    assert source.spec.group_size == 3 and len(source) == 6
    anchor, positive, negative = source.labels.reshape(2, 3).T
    assert (anchor == positive).all() and (anchor != negative).all()
    spec = data.spec_from_config(section(name=f"triplets:{path}", image_size=8, num_examples=6))
    assert spec.group_size == 3


def test_batches_are_whole_groups():
    order = groups.grouped_order(Shuffle(), 24, 8, 0, None, 2)
    epoch = np.concatenate([order.indices(step) for step in range(3)])
    assert sorted(epoch) == list(range(24))
    assert (epoch[::2] % 2 == 0).all() and (epoch[1::2] == epoch[::2] + 1).all()
    assert (np.concatenate([order.indices(step) for step in range(3, 6)]) != epoch).any()
    plain = Shuffle().order(24, 8, 0)
    single = groups.grouped_order(Shuffle(), 24, 8, 0, None, 1)
    np.testing.assert_array_equal(single.indices(1), plain.indices(1))
    with pytest.raises(UserError, match="batch_size 7 is no number of whole groups of 2.*6 or 8"):
        groups.grouped_order(Shuffle(), 24, 7, 0, None, 2)
    with pytest.raises(UserError, match="labels"):
        groups.grouped_order(PK(), 24, 8, 0, np.zeros(24, int), 2)


def test_batches_of_pairs_are_loaded_together(tmp_path):
    text = "".join(f"photos/{i}.png photos/{5 - i}.png {i % 2}\n" for i in range(6))
    path = tuple_file(tmp_path, text)
    source = load("pairs", path)
    with data.batches(source, batch_size=6, seed=0, num_steps=2) as batches:
        for batch in batches:
            first, second = (batch["image"][i::2, 4, 4, 0] // 10 for i in (0, 1))
            assert (first + second == 5).all()
            assert ((batch["label"][::2] == batch["label"][1::2]) == first % 2).all()
    config = ROWS["simclr"].load(
        data__name=f"pairs:{path}", data__image_size=8, data__num_examples=12, batch_size=5
    )
    with pytest.raises(UserError, match="batch_size 5 is no number of whole groups of 2"):
        Experiment.build(config, source.spec)


@pytest.mark.parametrize(
    "text, message",
    [
        ("photos/0.png photos/1.png\n", "line 1 is 'photos/0.png photos/1.png'; a line is: path"),
        ("photos/0.png photos/1.png maybe\n", "'maybe' in the last column; write one of 1, same"),
        ("photos/0.png photos/9.png 1\n", "lists photos/9.png, which does not exist below"),
        ("\n", "is empty; a line is: path path same"),
    ],
)
def test_bad_pairs(tmp_path, text, message):
    path = tuple_file(tmp_path, text)
    with pytest.raises(UserError, match="pairs:.*list.txt") as error:
        load("pairs", path)
    assert message in str(error.value)
    with pytest.raises(UserError, match="pairs:.*nowhere cannot be read: No such file"):
        load("pairs", tmp_path / "nowhere")
