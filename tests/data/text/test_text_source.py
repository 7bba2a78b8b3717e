"""Text as a source: opened by name and config, cut into sub-splits, read in batches."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.config import base_config, from_json, to_json
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import text
from ssl_jax.data.text import prepare, text_source
from ssl_jax.data.text.tokenizer_options import TokenizerOptions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(pattern, options) of a corpus of numbered documents; its cache is prepared once."""
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 20)):
        documents = [
            "\n".join(
                f"{split} document {i}, sentence {k}: " + "and on " * rng.integers(1, 12)
                for k in range(rng.integers(2, 12))
            )
            for i in range(count)
        ]
        (root / f"{split}.txt").write_text("\n\n".join(documents))
    options = {"tokenizer": "bpe", "vocab_size": 320, "cache_dir": str(root / "caches")}
    return f"text:{root}/{{split}}.txt", options


@pytest.fixture(scope="module")
def cache_of(corpus):
    """The folder of a cache prepared beforehand."""
    name, options = corpus
    folder = f"{options['cache_dir']}-prepared"
    made = text.corpus(name.removeprefix("text:"))
    prepare.prepare(made, TokenizerOptions("bpe", 320), folder, say=lambda line: None)
    return folder


def load(corpus, split="train", rows="packed", **options):
    name, common = corpus
    return data.load(name, split, **(common | {"rows": rows, "sequence_length": 64} | options))


def section(corpus, **values):
    config = base_config().data
    with config.unlocked():
        options = values.pop("options", {})
        config.update({"name": corpus[0]} | values)
        config.options.update(corpus[1] | {"sequence_length": 64} | options)
    return config


def documents_in(source):
    """Numbers of the documents whose words are in a source."""
    batch = source.batch(np.arange(len(source)))
    decoded = "".join(map(source.cache.tokenizer.decode, batch["tokens"]))
    pieces = decoded.split(" document ")[1:]
    return {piece.split(",")[0] for piece in pieces if ", sentence" in piece[:14]}


def test_a_corpus_by_name(corpus, caplog):
    with caplog.at_level(logging.WARNING):
        source = load(corpus)
        again = load(corpus)
    assert sum("preparing the tokens of" in line for line in caplog.messages) == 1
    assert source.name == f"{corpus[0]}[train]" and len(again) == len(source) > 10
    assert documents_in(source) == {str(i) for i in range(80)}
    assert data.splits(corpus[0]) == ("train", "test")
    assert documents_in(load(corpus, "test")) == {str(i) for i in range(20)}


@pytest.mark.parametrize("rows", ["packed", "padded", "full_sentences", "pairs"])
@pytest.mark.parametrize("word_start", [False, True])
def test_the_spec_without_the_data_is_the_spec_with_them(corpus, rows, word_start):
    config = section(corpus, options={"rows": rows, "word_start": word_start})
    source = data.from_config(config)
    with pytest.raises(UserError, match="has to be read to know its size; set data.num_examples"):
        data.spec_from_config(config)
    with config.unlocked():
        config.num_examples = len(source)
        config.name = "text:/nowhere/*.txt"
    assert data.spec_from_config(config) == source.spec
    batch = source.batch(np.arange(3))
    spec = source.spec.batch(3)
    assert set(batch) == set(spec)
    for key, shape in spec.items():
        assert batch[key].shape == shape.shape and batch[key].dtype == shape.dtype
    assert source.spec.vocabulary == source.cache.vocabulary
    pairs = {"type", "next"} if rows == "pairs" else set()
    words = {"word_start"} if word_start else set()
    assert set(spec) == {"tokens", "segment", "position", "label", "index"} | pairs | words


def test_facts_of_a_run_describe_its_tokens(corpus):
    config = base_config()
    with config.unlocked():
        config.data = section(corpus, options={"vocab_size": 400})
    source = data.from_config(config.data)
    assert source.spec.vocabulary.size == 400 or source.spec.vocabulary.size < 400
    kept = from_json(to_json(data.with_facts(config, source.spec)))
    assert data.spec_from_config(kept.data) == source.spec
    assert data.from_config(kept.data).spec == source.spec  # and it is no obstacle
    with kept.unlocked():
        kept.data.options.vocabulary.mask += 1
    with pytest.raises(UserError, match="are those of .* not of .*; use the tokenizer the run"):
        data.from_config(kept.data)


def test_dry_runs(tmp_path):
    def spec(name, **options):
        config = section(("", {}), name=name, num_examples=10, options=options)
        return data.spec_from_config(config)

    vocabulary = spec("pydoc").vocabulary
    assert vocabulary.size == 30_522 and (vocabulary.pad, vocabulary.mask) == (0, 4)
    vocabulary = spec("jsonl:x", tokenizer="bpe").vocabulary
    assert vocabulary.size == 50_265 and (vocabulary.cls, vocabulary.pad) == (0, 1)
    assert spec("tfds:wikipedia/20230601.en", vocab_size=99).vocabulary.size == 99
    with pytest.raises(UserError, match="tokens:/nowhere is not there to say what its tokens are"):
        spec("tokens:/nowhere")
    assert spec("tokens:/nowhere", vocab_size=99).vocabulary.size == 99
    published = tmp_path / "vocab.txt"
    published.write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\na\n")
    vocabulary = spec("parquet:x", tokenizer=str(published)).vocabulary
    assert (vocabulary.size, vocabulary.pad) == (6, 1)


def test_a_prepared_cache(corpus, cache_of):
    source = data.load(f"tokens:{cache_of}", sequence_length=64)
    ours = load(corpus)
    for one, two in zip(
        *(s.batch(np.arange(len(s))).values() for s in (source, ours)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    config = section(("", {}), name=f"tokens:{cache_of}", num_examples=len(source))
    assert data.spec_from_config(config) == source.spec
    same = {"tokenizer": f"{cache_of}/tokenizer.json", "vocab_size": source.spec.vocabulary.size}
    data.load(f"tokens:{cache_of}", **same)
    data.load(f"tokens:{cache_of}", tokenizer="bpe")


def test_another_vocabulary_than_the_cache(corpus, cache_of, tmp_path):
    name = f"tokens:{cache_of}"
    size = data.load(name).spec.vocabulary.size
    with pytest.raises(
        UserError, match=f"vocab_size is 30,522, but .* set data.options.vocab_size={size}"
    ):
        data.load(name, vocab_size=30_522)
    with pytest.raises(UserError, match="are not those of tokenizer wordpiece; leave"):
        data.load(name, tokenizer="wordpiece")
    made = json.loads((tmp_path.parent / cache_of / "tokenizer.json").read_text())
    made["pre_tokenizer"]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match="are not those of tokenizer /.*; leave"):
        data.load(name, tokenizer=str(tmp_path))
    other = dataclasses.asdict(data.load(name).spec.vocabulary) | {"pad": 3}
    with pytest.raises(UserError, match=r"not of .* with mask 4 and pad 3"):
        data.load(name, vocabulary=other)


@pytest.mark.parametrize("rows", ["packed", "padded", "full_sentences", "pairs"])
def test_sub_splits_share_no_document(corpus, rows):
    parts = [documents_in(load(corpus, f"train[{piece}]", rows)) for piece in (":70%", "70%:")]
    if rows != "pairs":  # which leaves out what it cuts off
        assert parts[0] | parts[1] == {str(i) for i in range(80)}
        assert [len(part) for part in parts] == [56, 24]
    assert not parts[0] & parts[1]
    first = load(corpus, "train[:5]", rows)
    assert first.extent == 5 and len(documents_in(first)) <= 5
    # A sample, not the beginning; the documents in it keep their order.
    assert (np.diff(first.chosen) > 0).all() and first.chosen.tolist() != list(range(5))


def test_splits_can_be_joined(corpus):
    both = load(corpus, "train[:10]+test")
    assert both.extent == 30 and both.name.endswith("[train[:10]+test]")
    assert len(load(corpus, "all").chosen) == 100
    with pytest.raises(UserError, match="unknown split 'validation'; splits: train, test"):
        load(corpus, "validation")


def test_the_stream_is_a_function_of_seed_and_step(corpus):
    source = load(corpus, rows="pairs")

    def steps(start, count, **options):
        with data.batches(source, batch_size=8, seed=1, start_step=start, **options) as stream:
            return [next(stream) for _ in range(count)]

    whole = steps(0, 12)
    for resumed, expected in zip(steps(7, 5), whole[7:], strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(resumed[key], value)
    halves = [steps(3, 1, rows=np.arange(8)[part::2])[0] for part in (0, 1)]
    for key, value in whole[3].items():
        np.testing.assert_array_equal(value[0::2], halves[0][key])
        np.testing.assert_array_equal(value[1::2], halves[1][key])
    epoch = np.concatenate([batch["index"] for batch in whole[: len(source) // 8]])
    assert len(set(epoch.tolist())) == len(epoch)


def test_an_epoch_in_order_is_padded_with_nothing(corpus):
    source = load(corpus, rows="pairs")
    batches = list(data.epoch_batches(source, 16))
    assert sum(batch["mask"].sum() for batch in batches) == len(source)
    last = batches[-1]
    empty = ~last["mask"]
    assert empty.any() and (last["segment"][empty] == 0).all() and (last["next"][empty] == -1).all()
    pad = source.spec.vocabulary.pad
    assert pad != 0 and (last["tokens"][empty] == pad).all()
    assert (last["index"][empty] == -1).all() and (last["label"][empty] == -1).all()
    real = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(real, np.arange(len(source)))


def test_the_seed_is_of_the_pairs(corpus):
    config = section(corpus, options={"rows": "pairs"})
    one, same, other = (data.from_config(config, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.plan.start, same.plan.start)
    assert one.plan.start.tolist() != other.plan.start.tolist()


def test_less_padding_by_packing(corpus):
    shares = {rows: load(corpus, rows=rows).padding_share for rows in ("packed", "padded")}
    assert shares["packed"] < 0.03 and shares["padded"] > 0.1


@pytest.mark.slow
def test_python_documentation(tmp_path):
    options = {"cache_dir": str(tmp_path), "vocab_size": 2000, "sequence_length": 32}
    source = data.load("pydoc", rows="padded", **options)
    spec = source.spec
    assert spec.num_classes == len(source.class_names) and "topics" in source.class_names
    batch = source.batch(np.flatnonzero(source.labels == source.class_names.index("topics"))[:50])
    decoded = [source.cache.tokenizer.decode(row) for row in batch["tokens"]]
    assert any("assignment statement" in row for row in decoded)
    assert all(source.names[i].startswith("topics/") for i in batch["index"])
    test = data.load("pydoc", "test", rows="padded", **options)
    assert test.num_classes == spec.num_classes and 5 < len(test) < len(source) / 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "pydoc",
            {"row": "pairs"},
            "unknown config key data.options.row; known keys: .*Did you mean 'rows'",
        ),
        ("pydoc", {"document": "file"}, "unknown config key data.options.document"),
        ("pydoc", {"image_size": 32}, "data.image_size is 32, but pydoc is text; leave it unset"),
        ("text:/nowhere/*.txt", {}, "no file matches text:/nowhere"),
        ("tokens:/nowhere", {}, "tokens:/nowhere is not a folder; make it: ssl_jax"),
        ("tokens:gs://x", {}, "is not a local path"),
        ("text", {}, "data set 'text' is not complete; write text:PATTERN"),
        ("tokens:", {}, "names nothing; write tokens:DIR"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)


def test_kinds():
    kinds = data.kinds()
    assert kinds["tokens"].modalities == ("text",) and kinds["digits"].modalities == ("image",)
    tfds = kinds["tfds"]
    assert tfds.modalities == ("image", "text", "audio")
    assert "rows" in tfds.options({"sequence_length": 8}).keys
    assert "rows" not in tfds.options({"image_key": "image"}).keys
    assert "stride" in tfds.options({"task": "classify"}).keys


def test_mocked_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    options = {"cache_dir": str(tmp_path), "vocab_size": 300, "tokenizer": "bpe"}
    with tfds.testing.mock_data(num_examples=6):
        reviews = data.load("tfds:imdb_reviews", rows="padded", **options)
        found = data.load("tfds:imdb_reviews", text_key="text", **options)  # as pretraining does
        plain = data.load("tfds:imdb_reviews", cache_dir=str(tmp_path))  # by its features
        records = tfds.builder("imdb_reviews").as_data_source(split="train")
        texts = [records[i]["text"] for i in range(6)]
        labels = [int(records[i]["label"]) for i in range(6)]
    assert reviews.class_names == ("neg", "pos") and reviews.num_classes == 2
    assert reviews.labels.tolist() == [labels[i] for i in reviews.plan.document.tolist()]
    where, cache = reviews.cache.documents, reviews.cache
    for i, expected in enumerate(texts):
        ids = np.zeros(where.num_tokens[i], np.int32)
        cache.read(where.token_start[[i]], where.num_tokens[[i]], ids, np.array([0]))
        assert cache.tokenizer.decode(ids) == expected.strip()
    assert found.cache.directory == cache.directory
    assert isinstance(plain, text_source.TextSource) and plain.spec.vocabulary.pad == 0
    with tfds.testing.mock_data(num_examples=6):
        with pytest.raises(UserError, match="text_key 'review' is not one of text"):
            data.load("tfds:imdb_reviews", text_key="review", **options)
        with pytest.raises(
            UserError, match="tfds:mnist has no text feature; features: image, label"
        ):
            data.load("tfds:mnist", sequence_length=64)
        images = data.load("tfds:mnist")
    assert images.spec.vocabulary is None
