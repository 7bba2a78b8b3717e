"""The one parser of sub-splits, against TFDS's own."""

import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data import subsplit

SIZES = {"train": 1003, "test": 7, "extra": 50}


def parse(text, sizes=SIZES):
    return [tuple(part) for part in subsplit.parse(text, tuple(sizes), sizes.__getitem__)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train", [("train", 0, 1003)]),
        ("train[:10]", [("train", 0, 10)]),
        ("train[10:]", [("train", 10, 1003)]),
        ("train[-3:]", [("train", 1000, 1003)]),
        ("train[:-3]", [("train", 0, 1000)]),
        ("train[1_000:1_002]", [("train", 1000, 1002)]),
        ("train[:80%]", [("train", 0, 802)]),
        ("train[80%:]", [("train", 802, 1003)]),
        ("train[33.3%:66.6%]", [("train", 334, 668)]),
        ("train[-10%:]", [("train", 903, 1003)]),
        ("test[:50%]", [("test", 0, 4)]),  # 3.5 to the even side
        ("train[:1%]+test", [("train", 0, 10), ("test", 0, 7)]),
        ("test + extra[10:20]", [("test", 0, 7), ("extra", 10, 20)]),
        ("all", [("train", 0, 1003), ("test", 0, 7), ("extra", 0, 50)]),
    ],
)
def test_meaning(text, parts):
    assert parse(text) == parts


def test_agrees_with_tfds_on_every_percentage():
    tfds_splits = pytest.importorskip("tensorflow_datasets.core.splits")
    for n in (7, 50, 99, 1003):
        infos = {"train": tfds_splits.SplitInfo(name="train", shard_lengths=[n], num_bytes=0)}
        for percent in (*range(1, 100), 0.7, 12.5, 33.4, 99.3):
            for text in (
                f"train[:{percent}%]",
                f"train[{percent}%:]",
                f"train[-{percent}%:]",
                f"train[:-{percent}%]",
                f"train[{percent}%:100%]",
            ):
                (absolute,) = tfds_splits.AbstractSplit.from_spec(text).to_absolute(infos)
                start, stop = absolute.from_ or 0, n if absolute.to is None else absolute.to
                # TFDS reads -0.3% of 99, rounded to 0, as "everything"; here that is an error.
                if start >= stop or (text.startswith("train[-") and start == 0):
                    continue
                assert parse(text, {"train": n}) == [("train", start, stop)], text


def test_complementary_parts_meet():
    for n in range(1, 60):
        for percent in (1, 10, 33, 50, 66, 90, 99):
            try:
                ((_, _, cut),) = parse(f"train[:{percent}%]", {"train": n})
                ((_, start, _),) = parse(f"train[{percent}%:]", {"train": n})
            except UserError as error:
                assert "is empty" in str(error)
            else:
                assert cut == start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tran", r"unknown split 'tran'; splits: train, test, extra. Did you mean 'train'\?"),
        ("train[:80%", "'train\\[:80%' is malformed; write e.g. train"),
        ("train[]", "is malformed"),
        ("train[:]", "is malformed"),
        ("train[5]", "is malformed"),
        ("train[a:b]", "is malformed at 'a'"),
        ("train[:1.5]", "is malformed at '1.5'"),
        ("train[1:2:3]", "is malformed"),
        ("", "is malformed"),
        ("train+", "is malformed"),
        ("train[:120%]", "120% is beyond 100%"),
        ("train[:2000]", "2000 is beyond the 1003 examples of 'train'"),
        ("train[-2000:]", "-2000 is beyond the 1003 examples"),
        ("train[10%:20]", "mixes percent and examples"),
        ("train[20:10]", "is empty: examples 20 to 10 of 1003"),
        ("test[:1%]", "is empty"),
        ("all[:10%]", "'all' takes no slice"),
    ],
)
def test_errors(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_only_the_splits_named_are_asked_for_their_size():
    asked = []
    subsplit.parse("test[:50%]", ("train", "test"), lambda name: asked.append(name) or 8)
    assert set(asked) == {"test"}


def test_aliases():
    aliases = {"val": "validation"}
    parts = subsplit.parse("val[:3]+validation", ("validation",), lambda _: 5, aliases)
    assert parts == [("validation", 0, 3), ("validation", 0, 5)]
