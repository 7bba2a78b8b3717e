"""Labelled text by name and options: classes, numbers, pairs, sub-splits, dry runs, bad input."""

import json

import jax
import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.config import base_config, from_json, to_json
from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled import glue_tasks
from ssl_jax.data.text import tokenizer_families, tokenizer_files, tokenizer_training

tfds = pytest.importorskip("tensorflow_datasets")

WORDS = "a bad dull fine film good great it is poor so that was warm well".split()  # noqa: SIM905
OPTIONS = {"tokenizer": "wordpiece", "vocab_size": 120, "sequence_length": 16}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of a tokenizer of each family."""
    root = tmp_path_factory.mktemp("tokenizers")
    for family, size in (("wordpiece", 120), ("bpe", 300)):
        made = tokenizer_training.train(lambda: [" ".join(WORDS)] * 3, family, size)
        (root / family).mkdir()
        (root / family / "tokenizer.json").write_text(made.to_json())
    return root


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def load(name, split="train", **options):
    return data.load(str(name), split, **OPTIONS | options)


def section(name, **options):
    config = base_config().data
    with config.unlocked():
        config.name = str(name)
        config.options.update(OPTIONS | options)
    return config


def everything(source):
    return source.batch(np.arange(len(source)))


def failure(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_spec(source):
    batch = everything(source)
    assert set(batch) == set(source.spec.arrays)
    for name, array in source.spec.arrays.items():
        assert (batch[name].shape[1:], batch[name].dtype) == (array.shape, array.dtype), name
    return batch


def test_csv(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "label,text,id",
        'pos,"good, ""great""',
        'film",0',
        "",
        "neg,dull,1",
        ' ,"so so",2',
        "pos,fine,3",
    )
    source = load(f"csv:{path}")
    batch = check_spec(source)
    assert source.class_names == ("neg", "pos") and source.spec.num_classes == 2
    assert source.spec.task == "classify" and source.metrics == ("accuracy", "macro_f1")
    np.testing.assert_array_equal(batch["label"], [1, 0, -1, 1])
    np.testing.assert_array_equal(batch["index"], range(4))
    assert source.texts() == ['good, " great " film', "dull", "so so", "fine"]
    assert list(source.names) == [f"{path}, line {line}" for line in (2, 5, 6, 7)]
    assert (batch["type"] == 0).all()
    pad = source.tokenizer.vocabulary.pad
    np.testing.assert_array_equal(batch["segment"], batch["tokens"] != pad)
    np.testing.assert_array_equal(batch["position"], batch["segment"] * np.arange(16))
    used = batch["segment"].sum(axis=1)
    assert source.units_per_example == used.mean()
    assert source.padding_share == pytest.approx(1 - used.mean() / 16)
    assert json.loads(source.tokenizer_json())["model"]["type"] == "WordPiece"


def test_tables_in_other_hands(tmp_path):
    """Tabs, other delimiters, quotes that are none, splits, compression."""
    import gzip

    tabs = write(tmp_path / "a.tsv", "text\tlabel", '"open\t1', "closed\t0")
    source = load(f"csv:{tabs}")
    assert source.texts() == ['" open', "closed"]
    assert list(source.labels) == [1, 0]
    bars = write(tmp_path / "b.txt", "q|a", "good|yes", "bad|no")
    source = load(f"csv:{bars}", delimiter="|", text_key="q", label_key="a")
    assert source.class_names == ("no", "yes")
    for split in ("train", "validation"):
        with gzip.open(tmp_path / f"{split}.csv.gz", "wt") as file:
            file.write(f"text,label\n{split},7\nfine,30\n")
    name = f"csv:{tmp_path}/{{split}}.csv.gz"
    assert data.splits(name, **OPTIONS) == ("train", "validation")
    held_out = load(name, "validation")
    # Numbers are sorted as such; the class of "30" is 1.
    assert held_out.class_names == ("7", "30") and list(held_out.labels) == [0, 1]
    assert len(load(name, "train+validation")) == len(load(name, "all")) == 4


def test_classes_can_be_named(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "good,b", "bad,a")
    source = load(f"csv:{path}", class_names=["c", "b", "a"])
    assert list(source.labels) == [1, 2] and source.num_classes == 3
    assert source.class_names == ("c", "b", "a")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_records(tmp_path, kind):
    rows = [
        {"text": "good", "label": 1, "score": 0.5, "words": ["good", "film"], "tags": ["A", "O"]},
        {"text": "bad", "label": 0, "score": 2, "words": ["bad"], "tags": ["B"]},
        {"text": "so", "label": -1, "score": None, "words": [], "tags": []},
    ]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        write(path, *map(json.dumps, rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    source = load(f"{kind}:{path}", task="classify")
    assert source.class_names == ("0", "1") and list(source.labels) == [1, 0, -1]
    source = load(f"{kind}:{path}", task="regress", label_key="score")
    batch = check_spec(source)
    np.testing.assert_array_equal(batch["target"], np.array([0.5, 2, np.nan], np.float32))
    assert (batch["label"] == -1).all() and source.num_classes is source.class_names is None
    source = load(f"{kind}:{path}", task="tags", text_key="words", label_key="tags")
    batch = check_spec(source)
    assert source.class_names == ("O", "A", "B") and source.metrics == ("accuracy", "macro_f1")
    assert batch["tags"][batch["tags"] >= 0].tolist() == [1, 0, 2] and len(source) == 3


def labels_of(kind, path, labels, **options):
    """The class names and classes of examples with these labels, read from files of a kind."""
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    path = path / f"{len(list(path.iterdir()))}.{kind}"
    if kind == "jsonl":
        write(path, *map(json.dumps, rows))
    elif kind == "csv":
        cells = ["" if label is None else label for label in labels]
        write(path, "text,label", *(f"text {i},{cell}" for i, cell in enumerate(cells)))
    else:
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    source = load(f"{kind}:{path}", task="classify", **options)
    return source.class_names, source.labels.tolist(), source.notes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_one_rule_for_the_labels_of_all_formats(kind, tmp_path):
    """Minus one, blanks and null are no label, whether a format has types or not."""
    for labels in ([0, 1, -1, 1, None], ["0", "1", "-1", "1", ""], ["0", " 1", " -1 ", "1", "  "]):
        names, classes, notes = labels_of(kind, tmp_path, labels)
        assert (names, classes) == (("0", "1"), [0, 1, -1, 1, -1]), labels
        assert notes[0].startswith("2 of 5 rows of ")
        assert "have no label (blank, null or -1; first: " in notes[0]
        where = {"csv": "line 4", "jsonl": "line 3", "parquet": "row 2"}[kind]
        assert f", {where})" in notes[0]
    # Names, and -1.0 as tables with a missing label have it.
    names, classes, _ = labels_of(kind, tmp_path, ["no", "yes", "-1.0", "-1", "nan"])
    assert (names, classes) == (("nan", "no", "yes"), [1, 2, -1, -1, 0])
    # Whoever has a class of that name says so.
    for labels in ([-1, 0, 1, -1], ["-1", "0", "1", "-1"]):
        names, classes, notes = labels_of(kind, tmp_path, labels, class_names=("-1", "0", "1"))
        assert (names, classes, notes) == (("-1", "0", "1"), [0, 1, 2, 0], [])


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("classify", [("good", 1), ("bad", 0), ("so", None), ("it is", ""), ("well", 1)]),
        ("regress", [("good", 0.5), ("bad", "2"), ("so", None), ("it is", " "), ("well", 1)]),
        (
            "tags",
            [(["good"], ["A"]), (["bad", "so"], ["", "O"]), (["so"] * 20, [""] * 20), ([], [])],
        ),
    ],
)
def test_rows_without_a_label_are_told(tmp_path, task, rows):
    path = tmp_path / "a.jsonl"
    for some in (rows, rows[:2]):
        write(path, *(json.dumps({"text": text, "label": label}) for text, label in some))
        source = load(f"jsonl:{path}", task=task)
        missing = {"classify": 2, "regress": 2, "tags": 3}[task]  # one sentence is two rows
        blank = "blank or null" if task == "regress" else "blank, null or -1"
        note = (
            f"{missing} of 5 rows of jsonl:{path}[train] have no label ({blank}; first: {path}, "
            "line 3): nothing is learned from what has none, and it is not scored"
        )
        assert source.notes() == ([note] if some is rows else [])
    assert source.take(np.array([0])).notes() == []


def test_pairs_are_framed_as_the_tokenizer_frames_them(tmp_path, published):
    """Against the library: its template, its truncation, its types.

    Of an odd number of tokens the library gives the longer text one more; hence the even rooms.
    """
    rng = np.random.default_rng(0)
    lines = [
        ",".join(" ".join(rng.choice(WORDS, rng.integers(0, 14))) for _ in range(2)) + f",{i % 2}"
        for i in range(60)
    ]
    path = write(tmp_path / "a.csv", "one,two,label", *lines)
    for family, length in (("wordpiece", 17), ("bpe", 16)):
        source = data.load(
            f"csv:{path}", text_key="one", text_pair_key="two", sequence_length=length,
            tokenizer=str(published / family),
        )  # fmt: skip
        batch = check_spec(source)
        backend = tokenizer_files.load(str(published / family)).backend
        backend.enable_truncation(length, strategy="longest_first")
        for row, line in enumerate(lines):
            one, two, _ = line.split(",")
            wanted = backend.encode(one, two)
            size = len(wanted.ids)
            assert batch["tokens"][row, :size].tolist() == wanted.ids
            assert batch["segment"][row].sum() == size
            if family == "wordpiece":  # RoBERTa's template has one type
                assert batch["type"][row, :size].tolist() == wanted.type_ids
            else:
                begins = wanted.sequence_ids.index(1) if two else size - 1
                assert batch["type"][row].tolist() == [
                    int(begins <= place < size) for place in range(length)
                ]


def test_sub_splits_and_batches(tmp_path):
    lines = [f"{WORDS[i % 15]} {WORDS[i % 7]} {i},{i % 3}" for i in range(50)]
    path = write(tmp_path / "a.csv", "text,label", *lines)
    parts = [load(f"csv:{path}", split) for split in ("train[:80%]", "train[80%:]")]
    assert [len(part) for part in parts] == [40, 10] == [part.extent for part in parts]
    names = [set(part.names) for part in parts]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 50
    # Drawn at random: files are often sorted.
    assert max(int(name.split()[-1]) for name in names[0]) > 45
    again = load(f"csv:{path}", "train[80%:]+train[:80%]")
    assert set(again.names) == names[0] | names[1]
    np.testing.assert_array_equal(again.labels[:10], parts[1].labels)
    np.testing.assert_array_equal(everything(again)["tokens"][:10], everything(parts[1])["tokens"])
    *_, last = data.epoch_batches(parts[1], batch_size=4)
    assert last["mask"].tolist() == [True, True, False, False]
    assert (last["tokens"][2:] == parts[1].tokenizer.vocabulary.pad).all()
    assert (last["label"][2:] == -1).all()


def test_rows_that_are_no_examples(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "a,1.5", "b,2", "c,3")
    *_, last = data.epoch_batches(load(f"csv:{path}", task="regress"), batch_size=2)
    assert np.isnan(last["target"][1]) and last["target"][0] == 3
    assert load(f"csv:{path}", task="regress").padding("label") == -1
    path = write(tmp_path / "a.conll", "a O", "b B-X")
    assert load(f"conll:{path}").padding("tags") == -1


def test_few_labels(tmp_path):
    lines = [f"good {i},{i % 2}" for i in range(40)]
    path = write(tmp_path / "a.csv", "text,label", *lines)
    config = section(f"csv:{path}")
    with config.unlocked():
        config.labelled_fraction = 0.2
    few = data.from_config(config)
    assert np.bincount(few.labels).tolist() == [4, 4] and few.available == 40
    config.unlabelled = "keep"
    kept = data.from_config(config)
    assert len(kept) == 40 and (kept.labels >= 0).sum() == 8
    assert set(few.names) == {kept.names[row] for row in np.flatnonzero(kept.labels >= 0)}
    config.num_examples, config.num_classes = 40, 2
    assert data.spec_from_config(config).num_examples == 40
    with config.unlocked():
        config.options.task = "regress"
    assert "has no labels" in failure(data.from_config, config)


def test_tokenizers(tmp_path, published):
    path = write(tmp_path / "a.csv", "text,label", "good film,1", "poor,0")
    trained = load(f"csv:{path}")
    assert trained.tokenizer.digest == load(f"csv:{path}", "train[:50%]").tokenizer.digest
    # A run's folder, or the files of a model.
    for name in (published / "bpe", published / "bpe" / "tokenizer.json"):
        source = data.load(f"csv:{path}", tokenizer=str(name))
        assert source.tokenizer.vocabulary.size == source.spec.vocabulary.size
        assert source.texts() == ["good film", "poor"]
    facts = data.with_facts(base_config(), trained.spec).data.options.vocabulary.to_dict()
    load(f"csv:{path}", vocabulary=facts)
    message = failure(data.load, f"csv:{path}", tokenizer=str(published / "bpe"), vocabulary=facts)
    assert "has 300 tokens with mask 4 and pad 1, not" in message
    assert f"not {facts['size']:,} tokens with mask 4 and pad 0" in message
    assert "use the tokenizer the run began with" in message


def test_dry_runs_need_no_data(published):
    config = section("csv:/nowhere/{split}.csv")
    assert "set data.num_examples" in failure(data.spec_from_config, config)
    config.num_examples, config.num_classes = 70, 3
    whole = base_config()
    with whole.unlocked():
        whole.data = config
    spec = data.spec_from_config(from_json(to_json(whole)).data)
    assert spec.task == "classify" and (spec.num_examples, spec.num_classes) == (70, 3)
    assert spec.arrays["tokens"] == jax.ShapeDtypeStruct((16,), np.int32)
    assert spec.vocabulary == tokenizer_families.family_vocabulary("wordpiece", 120)
    with config.unlocked():
        config.options.update(tokenizer=str(published / "bpe"), vocab_size=None)
    assert data.spec_from_config(config).vocabulary.size == 300
    for name, options, arrays, classes in (
        ("jsonl:x", {"task": "regress"}, {"target"}, None),
        ("conll:x", {"class_names": ["O", "B-X"]}, {"tags"}, 2),
        ("squad:x", {"sequence_length": None}, {"span", "context"}, None),
    ):
        config = section(name, **options)
        config.num_examples = 5
        spec = data.spec_from_config(config)
        common = {"tokens", "segment", "position", "type", "label", "index"}
        assert set(spec.arrays) == common | arrays and spec.num_classes == classes
    assert spec.arrays["tokens"].shape == (384,) and spec.arrays["span"].shape == (2,)


@pytest.mark.parametrize("name", glue_tasks.TASKS)
def test_glue(tmp_path, name):
    about = glue_tasks.TASKS[name]
    options = OPTIONS | {"data_dir": str(tmp_path)}
    with tfds.testing.mock_data(num_examples=4):
        source = data.load(f"glue:{name}", **options)
        features = tfds.builder(f"glue/{about.prepared}").info.features
        hidden = data.load(f"glue:{name}", "test", **options)
        assert len(data.load(f"glue:{name}", "validation", **options)) == 4
    batch = check_spec(source)
    assert len(source) == 4 and source.metrics == about.metrics
    assert set(features) == {*about.fields, "label", "idx"}
    if about.class_names is None:
        assert name == "stsb" and np.isfinite(batch["target"]).all()
        assert np.isnan(everything(hidden)["target"]).all()
    else:
        assert tuple(features["label"].names) == about.class_names == source.class_names
        assert (batch["label"] >= 0).all() and (everything(hidden)["label"] == -1).all()
    assert (batch["type"].max() == 1) == (len(about.fields) == 2)
    config = section(f"glue:{name}")
    config.split = "validation"
    spec = data.spec_from_config(config)
    assert spec.task == about.task and spec.arrays == source.spec.arrays
    assert spec.num_examples in about.sizes.values()
    assert spec.num_classes == source.spec.num_classes


def test_glue_that_is_not_there(tmp_path):
    options = OPTIONS | {"data_dir": str(tmp_path)}
    message = failure(data.load, "glue:rte", **options)
    assert "glue/rte is not prepared in" in message and "download_and_prepare()" in message
    assert "Did you mean 'mrpc'?" in failure(data.load, "glue:mrcp", **options)
    assert "is regress" in failure(data.load, "glue:stsb", task="classify", **options)


def test_tfds(tmp_path):
    options = OPTIONS | {"data_dir": str(tmp_path), "task": "classify"}
    with tfds.testing.mock_data(num_examples=5):
        source = data.load("tfds:ag_news_subset", text_key="description", **options)
        with pytest.raises(UserError, match="several features"):
            data.load("tfds:ag_news_subset", **options)
    assert len(source) == 5 and "Sports" in " ".join(source.class_names)
    assert (everything(source)["label"] >= 0).all()


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([], {}, "is empty; its first line must name the columns"),
        (["text,label"], {}, "has no labels"),
        (["text,label"], {"class_names": ["a", "b"]}, "has no examples"),
        (["txt,label", "a,1"], {}, "has no 'text'; it has txt, label. Did you mean 'txt'? Set "),
        (["text,lable", "a,1"], {}, "has no 'label'; it has text, lable. Did you mean 'lable'?"),
        (["text,label", "a,1", "b"], {}, "line 3 has 1 columns, but the first line names 2"),
        (["text,label,text", "a,1,b"], {}, "has two columns 'text'"),
        (["text,label", '"a,1', "b,2"], {}, "is a quote left open?"),
        (["text,label", "a,1", "b,1"], {}, "has only the class '1'"),
        (["text,label", "a,1", "b,x"], {"task": "regress"}, "line 3: 'label' is 'x', not a number"),
        (["text,label", "a,inf"], {"task": "regress"}, "'label' is 'inf', not a number"),
        (["text,label", "a,x", "b,y"], {"class_names": ["x", "yes"]},
         "line 3: 'y' is no class; classes: x, yes. Did you mean 'yes'?"),
        (["text,label", *(f"a,{i}" for i in range(30))], {}, "has 30 different labels on 30 texts"),
        (["text,label", "a,x"], {"task": "clasify"}, "'clasify'; use one of classify, "
         "regress. Did you mean 'classify'?"),
        (["text,label", "a,x"], {"task": "tags"}, "is 'tags'; use one of classify, regress"),
        (["text,label", "a,x"], {"sequence_length": 4}, "sequence_length is 4"),
        (["text,label", "a,x"], {"rows": "packed"}, "rows is 'packed'; use padded"),
        (["text,label", "a,x"], {"txt_key": "a"}, "unknown config key data.options.txt_key"),
        (["text,label", "a,x"], {"class_names": ["x", "x"]}, "has a name twice"),
        (["text,label", "a,x"], {"errors": "ignore"}, "errors is 'ignore'; use one of strict"),
        (["text,label", "a,x"], {"delimiter": "ab"}, "use a text of one character or None"),
        (["text,label", "a,x"], {"tokenizer": "/nowhere", "class_names": ["x"]},
         "'/nowhere' is neither"),
        (["text,label", "a,1"], {"task": "regress", "class_names": ["a"]}, "regress has none"),
        (["text,label", "a,1"], {"image_size": 8}, "data.image_size is 8, but csv is text"),
    ],
)  # fmt: skip
def test_bad_tables(tmp_path, lines, options, message):
    path = write(tmp_path / "a.csv", *lines)
    assert message in failure(load, f"csv:{path}", **options)


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"text": 3, "label": 1}, {}, "line 2: 'text' is 3, not a text"),
        (
            {"text": "a", "label": 0.5},
            {},
            "'label' is 0.5, not a class; set data.options.task=regress",
        ),
        (
            {"text": "a", "label": [1]},
            {},
            "'label' is [1], neither the name of a class nor a number",
        ),
        ({"text": "a \ud800", "label": 1}, {}, "line 2 has half a character"),
        ({"text": "a", "label": True}, {"task": "regress"}, "'label' is True, not a number"),
        ({"text": "a", "label": ["O"]}, {"task": "tags"}, "'text' is 'a', not a list of words"),
        ({"text": ["a"], "label": "O"}, {"task": "tags"}, "'label' is 'O', not a list of tags"),
        ({"text": ["a"], "label": ["O", "O"]}, {"task": "tags"}, "has 1 words and 2 tags"),
        (
            {"text": "a"},
            {"task": "span", "stride": 4, "query_length": 4},
            "'span'; use one of classify, regress, tags or None",
        ),
    ],
)
def test_bad_records(tmp_path, record, options, message):
    first = {"text": ["a"], "label": ["O"]} if options.get("task") == "tags" else {
        "text": "a", "label": 1}  # fmt: skip
    path = write(tmp_path / "a.jsonl", json.dumps(first), json.dumps(record))
    options = {"task": "classify"} | options
    assert message in failure(load, f"jsonl:{path}", **options)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ngood,1\ncaf\xe9,0\n")
    assert "is not UTF-8: byte 0xe9 at offset 21" in failure(load, f"csv:{path}")
    assert load(f"csv:{path}", errors="replace").texts()[0] == "good"


def test_one_enormous_text(tmp_path, published):
    path = write(tmp_path / "a.csv", "text,label", f"{'good ' * 100_000},1", "bad,0")
    options = {"tokenizer": str(published / "wordpiece"), "vocab_size": None}
    source = load(f"csv:{path}", **options)
    assert source.encoded.length[:, 0].tolist() == [14, 1]
    path = write(tmp_path / "a.csv", "text,label", f"{'a' * ((1 << 24) + 1)},1", "bad,0")
    assert "field larger than field limit" in failure(load, f"csv:{path}", **options)


def test_what_has_no_task(tmp_path):
    write(tmp_path / "a.txt", "one", "two")
    message = failure(data.load, f"text:{tmp_path}/a.txt", task="classify")
    assert "text has no labels to learn a task from" in message
    assert "no file matches csv:" in failure(load, f"csv:{tmp_path}/*.csv")
    spec, kinds = {}, data.kinds()
    assert "task" in kinds["csv"].options(spec).keys and kinds["jsonl"].tasks
    assert not kinds["text"].tasks and not kinds["folder"].tasks
