"""Tables: columns, missing values, unknown categories, splits, and what damaged files say."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from ssl_jax import data
from ssl_jax.config import base_config
from ssl_jax.core.columns import Columns
from ssl_jax.core.errors import UserError
from ssl_jax.modalities.base import OtherData
from ssl_jax.modalities.table import DRAWS, TABLE

ROWS = """age,job,pay,zip,income
39, clerk ,2.5,0123,low
?,farmer,1e3,0124,high
50,,NaN,0123,
28,clerk,0,0125,low
"""


def write(folder, text=ROWS, name="t.csv"):
    (folder / name).write_text(text)
    return f"table:{folder / name}"


def whole(name, **options):
    return data.load(name, "train+test", label="income", **options)


def by_age(source):
    return source.rows[np.argsort(source.rows[:, 0])]


def test_numbers_categories_and_what_is_missing(tmp_path):
    (tmp_path / "s-train.csv").write_text(ROWS)
    source = data.load(f"table:{tmp_path}/s-{{split}}.csv", label="income", categories=("zip",))
    columns = source.columns
    assert columns.names == ("age", "job", "pay", "zip")
    assert columns.values == ((), ("clerk", "farmer"), (), ("0123", "0124", "0125"))
    assert columns.numbers == (0, 2) and columns.categories == (1, 3)
    assert columns.means[0] == pytest.approx(39) and columns.means[2] == pytest.approx(1002.5 / 3)
    assert columns.deviations[0] == pytest.approx(np.std([39, 50, 28]))
    expected = [[39, 1, 2.5, 1], [np.nan, 2, 1000, 2], [50, 0, np.nan, 1], [28, 1, 0, 3]]
    np.testing.assert_allclose(source.rows, expected)
    assert source.class_names == ("high", "low") and source.labels.tolist() == [1, 0, -1, 1]
    h = np.asarray(TABLE.raw_features(source.batch(np.arange(4)), columns)["h"])
    assert h.shape == (4, 2 + 3 + 2 + 4)
    np.testing.assert_allclose(h[:, :2], [[0, 0], [0, 1], [11 / np.std([39, 50, 28]), 0],
                                          [-11 / np.std([39, 50, 28]), 0]], rtol=1e-5)  # fmt: skip
    np.testing.assert_array_equal(h[:, 2:5], [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_parquet_is_read_as_csv(tmp_path):
    table = pa.table({
        "age": [39, None, 50, 28], "job": ["clerk", "farmer", None, "clerk"],
        "pay": [2.5, 1e3, None, 0.0], "zip": ["0123", "0124", "0123", "0125"],
        "income": ["low", "high", None, "low"],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    csv = whole(write(tmp_path), categories=("zip",))
    parquet = whole(f"table:{tmp_path}/t.parquet", categories=("zip",))
    np.testing.assert_allclose(by_age(parquet), by_age(csv))


def test_a_fifth_of_one_file_is_test_and_stays_it(tmp_path):
    text = "x,label\n" + "".join(f"{i},{i % 2}\n" for i in range(50))
    name = write(tmp_path, text)
    train, test = data.load(name), data.load(name, "test")
    assert len(train) == 40 and len(test) == 10
    both = np.concatenate([train.rows[:, 0], test.rows[:, 0]])
    assert sorted(both) == list(range(50)) and list(both[:10]) != list(range(10))
    np.testing.assert_array_equal(data.load(name, "train[50%:]").rows, train.rows[20:])
    assert train.columns.means[0] == pytest.approx(train.rows[:, 0].mean())  # not of test
    assert data.splits(name) == ("train", "test")
    facts = data.kinds()["table"].facts(name.partition(":")[2], {})
    assert facts.splits == {"train": 40, "test": 10} and facts.num_classes == 2


def test_draws_are_from_the_marginals_of_the_split(tmp_path):
    text = "x,y,label\n" + "".join(f"{i},{100 + i},a\n" for i in range(60))
    source = data.load(write(tmp_path, text), "train[:20]")
    table = np.concatenate([
        source.batch(np.arange(20), seed=1, step=step)["table"] for step in range(60)
    ])  # fmt: skip
    np.testing.assert_array_equal(table[:20, 0], source.rows)
    for draw in range(1, 1 + DRAWS):
        for column in range(2):
            values, counts = np.unique(table[:, draw, column], return_counts=True)
            np.testing.assert_array_equal(values, np.sort(source.rows[:, column]))
            assert counts.min() / 60 > 0.4 and counts.max() / 60 < 1.8  # uniform over the rows
    # Columns, views, positions and steps are drawn independently.
    drawn = table[:, 1:].reshape(len(table), -1)
    correlation = np.corrcoef(drawn.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.12
    assert np.abs(np.corrcoef(table[:, 0, 0], table[:, 1, 0])[0, 1]) < 0.12
    again = source.batch(np.arange(4), seed=1, step=3, positions=np.arange(8, 12))["table"]
    np.testing.assert_array_equal(again[:, 1:], table[68:72, 1:])


def test_another_table_is_read_by_the_columns_of_the_run(tmp_path):
    run = whole(write(tmp_path), categories=("zip",))
    config = base_config()
    config.data.options = ConfigDict({"label": "income"})
    options = data.with_facts(config, run.spec, class_names=run.class_names).data.options
    kept = TABLE.options_elsewhere(options, OtherData("x"))
    other = write(tmp_path, "zip,job,extra,pay,age,income\n0123,pilot,7,,41,low\n", "other.csv")
    source = data.load(other, "train", **kept)
    assert source.columns == run.columns
    np.testing.assert_allclose(source.rows, [[41, 0, np.nan, 1]])  # a pilot is unknown


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "t.csv is empty; its first line must name the columns"),
        ("a,label\n", {}, "t.csv has no rows"),
        ("a,a,label\n1,2,x\n", {}, "two columns 'a'"),
        ("a,label\n1,x,3\n", {}, "line 2 has 3 columns, but the first line names 2"),
        ("a,b\n1,2\n", {}, "data.options.label names a column 'label', but .*t.csv has a, b"),
        ("a,label\n,x\n", {}, "column 'a' has no value; name it in data.options.ignore"),
        ("a,label\n1,\n", {}, "the label 'label' has no value"),
        ("a,label\n1,x\n", {"ignore": ("b",)}, "data.options.ignore names a column 'b'"),
        ("a,label\n1,x\n", {"ignore": ("a",)}, "has no column but the label"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(text, options, message, tmp_path):
    name = write(tmp_path, text).replace("t.csv", "{split}.csv")
    (tmp_path / "t.csv").rename(tmp_path / "train.csv")
    with pytest.raises(UserError, match=message.replace("t.csv", "train.csv")) as told:
        data.load(name, **options)
    assert "\n" not in str(told.value)


def test_a_text_among_numbers_of_another_split_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("a,label\n1,x\n2,y\n")
    (tmp_path / "test.csv").write_text("a,label\n1,x\ntwo,y\n")
    name = f"table:{tmp_path}/{{split}}.csv"
    with pytest.raises(UserError, match="test.csv, row 1: column 'a' is 'two', not a number"):
        data.load(name, "test")
    (tmp_path / "test.csv").write_text("b,label\n1,x\n")
    with pytest.raises(UserError, match="the run has a column 'a', but .*test.csv has b, label"):
        data.load(name, "test")


def test_too_many_categories_and_torn_parquet(tmp_path):
    text = "id,x,label\n" + "".join(f"user{i},1,a\n" for i in range(1500))
    with pytest.raises(UserError, match="column 'id' has 1,200 different texts, such as 'user"):
        data.load(write(tmp_path, text))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match="t.parquet cannot be read"):
        data.load(f"table:{tmp_path}/t.parquet")
    nested = pa.table({"x": [[1, 2]], "label": ["a"]})
    pq.write_table(nested, tmp_path / "n.parquet")
    with pytest.raises(UserError, match="column 'x' has values of type list"):
        data.load(f"table:{tmp_path}/n.parquet")
    for name in ("table:", "table:nowhere.csv"):
        with pytest.raises(UserError):
            data.load(name)


def test_tables_of_scikit_learn():
    source = data.load("table:wine", "train+test")
    assert source.rows.shape == (178, 13) and source.num_classes == 3
    assert isinstance(source.spec.columns, Columns) and source.columns.names[0] == "alcohol"
    with pytest.raises(UserError, match="data.image_size is 8, but table is a table"):
        data.load("table:wine", image_size=8)
