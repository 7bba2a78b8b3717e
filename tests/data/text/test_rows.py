"""Rows of tokens: which tokens stand where."""

import time

import numpy as np
import pytest

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.text import rows
from ssl_jax.data.text.rows import RowOptions
from ssl_jax.data.text.text_source import TextSource

PAD, UNK, CLS, SEP, MASK = 3, 4, 0, 1, 2
VOCABULARY = Vocabulary(100, pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK, special=(0, 1, 2, 3, 4))
STARTS = (np.arange(100) % 3 != 0) | (np.arange(100) < 5)


class Cache:
    """A token cache in memory: every token's id says in which document it is, roughly."""

    def __init__(self, sentences):
        """sentences: of each document, the lengths of its sentences."""
        counts = np.array([len(own) for own in sentences])
        self.sentence_tokens = np.concatenate(sentences).astype(np.uint32)
        self.sentence_starts = np.concatenate(
            [[0], np.cumsum(self.sentence_tokens, dtype=np.int64)]
        )
        start = np.cumsum(counts) - counts
        ends = self.sentence_starts[start + counts]
        self.tokens = np.random.default_rng(0).integers(5, 100, self.sentence_starts[-1])
        self.vocabulary, self.class_names, self.num_classes = VOCABULARY, ("even", "odd"), 2
        self.names = [f"document {i}" for i in range(len(sentences))]
        self.documents = type("", (), dict(
            token_start=self.sentence_starts[start], num_tokens=ends - self.sentence_starts[start],
            sentence_start=start, num_sentences=counts,
            label=np.arange(len(counts), dtype=np.int32) % 2,
        ))  # fmt: skip
        self.tokenizer = type("", (), {"word_starts": lambda self: STARTS})()

    def read(self, starts, lengths, out, at):
        for start, length, place in zip(starts, lengths, at, strict=True):
            out[place : place + length] = self.tokens[start : start + length]

    def document(self, number):
        start = self.documents.token_start[number]
        return self.tokens[start : start + self.documents.num_tokens[number]].tolist()


def cache(num_documents=120, longest=40, tokens=30, seed=0):
    rng = np.random.default_rng(seed)
    return Cache([rng.integers(1, tokens, rng.integers(1, longest)) for _ in range(num_documents)])


def source(made, kind, length=64, chosen=None, **options):
    chosen = np.arange(len(made.names)) if chosen is None else np.asarray(chosen)
    return TextSource(
        name="test", cache=made, chosen=chosen, options=RowOptions(kind, length, **options)
    )


def everything(made):
    return made.batch(np.arange(len(made)))


def runs(tokens, segment, position):
    """The texts of one row that stands between cls and sep each, after checking its arrays."""
    out = []
    real = segment > 0
    assert (np.diff(real.astype(int)) <= 0).all(), "padding is at the end"
    assert (tokens[~real] == PAD).all() and (position[~real] == 0).all()
    for number in range(1, segment.max() + 1):
        (places,) = np.nonzero(segment == number)
        assert (np.diff(places) == 1).all()
        np.testing.assert_array_equal(position[places], np.arange(len(places)))
        own = tokens[places].tolist()
        assert own[0] == CLS and own[-1] == SEP
        out.append(own[1:-1])
    return out


@pytest.mark.parametrize("kind", ["packed", "padded"])
@pytest.mark.parametrize("length", [8, 64, 500])
def test_packed_and_padded_rows_hold_every_token_once(kind, length):
    made = cache()
    rows_of = source(made, kind, length)
    batch = everything(rows_of)
    assert all(value.dtype == np.int32 for value in batch.values())
    found = []
    for row in zip(batch["tokens"], batch["segment"], batch["position"], strict=True):
        found += runs(*row)
    expected = [
        own[start : start + length - 2]
        for own in map(made.document, range(120))
        for start in range(0, len(own), length - 2)
    ]
    assert sorted(found) == sorted(expected)
    real = (batch["segment"] > 0).mean()
    assert rows_of.padding_share == pytest.approx(1 - real)
    if kind == "packed":
        assert real > 0.97 and (batch["label"] == -1).all()
        assert (batch["segment"].max(1) > 1).any()
    else:
        assert found == expected and (batch["segment"] <= 1).all()


def test_a_padded_row_has_its_documents_label_and_name():
    made = cache()
    rows_of = source(made, "padded", chosen=[3, 8, 50])
    batch = everything(rows_of)
    assert rows_of.num_classes == 2 and rows_of.class_names == ("even", "odd")
    counts = [-(-len(made.document(i)) // 62) for i in (3, 8, 50)]
    assert batch["label"].tolist() == np.repeat([1, 0, 0], counts).tolist()
    np.testing.assert_array_equal(rows_of.labels, batch["label"])
    assert rows_of.names[0] == rows_of.example_name(0) == "document 3"
    assert rows_of.names[len(rows_of) - 1] == "document 50"
    packed = source(made, "packed")
    assert packed.labels is None and packed.num_classes is None and packed.names is None
    assert packed.example_name(4) == "test example 4"


def test_full_sentences():
    made = cache()
    length = 64
    batch = everything(source(made, "full_sentences", length))
    # Walk through the sentences as RoBERTa does: take them while they fit, a sep where a document
    # ends.
    expected, row = [], [CLS]
    for number in range(120):
        start, count = made.documents.sentence_start[number], made.documents.num_sentences[number]
        for sentence in range(start, start + count):
            own = made.tokens[made.sentence_starts[sentence] : made.sentence_starts[sentence + 1]]
            if len(row) + len(own) + 1 > length:
                expected.append(row if row[-1] == SEP else [*row, SEP])
                row = [CLS]
            row += own.tolist()
        row.append(SEP)
    expected.append(row)
    found = [t[s > 0].tolist() for t, s in zip(batch["tokens"], batch["segment"], strict=True)]
    assert found == expected
    assert sum(row.count(SEP) > 1 for row in found) > 50  # across documents
    assert set(np.unique(batch["segment"])) == {0, 1}
    for segment, position in zip(batch["segment"], batch["position"], strict=True):
        used = segment.sum()
        np.testing.assert_array_equal(position[:used], np.arange(used))
        assert (position[used:] == 0).all() and (segment[:used] == 1).all()


def test_long_sentences_are_cut():
    made = Cache([np.array([500, 3]), np.array([2, 62, 63])])
    batch = everything(source(made, "full_sentences", 64))
    text = batch["tokens"][(batch["segment"] > 0) & (batch["tokens"] > MASK)]
    np.testing.assert_array_equal(text, made.tokens)
    assert (batch["segment"].sum(1) == 64).sum() >= 8


def test_chains_fill_rows_side_by_side(monkeypatch):
    made = cache(400)
    whole = everything(source(made, "full_sentences"))
    monkeypatch.setattr(rows, "_CHAIN", 4)
    batch = everything(source(made, "full_sentences"))
    for one in (whole, batch):
        text = one["tokens"][(one["segment"] > 0) & (one["tokens"] > MASK)]
        np.testing.assert_array_equal(text, made.tokens)
    assert len(whole["tokens"]) < len(batch["tokens"]) < 1.2 * len(whole["tokens"])


def test_pairs():
    made = cache()
    rows_of = source(made, "pairs", short_probability=0.1)
    batch = everything(rows_of)
    assert all(value.dtype == np.int32 for value in batch.values())
    plan = rows_of.plan
    for i in range(len(rows_of)):
        real = batch["segment"][i] > 0
        a_start, b_start = plan.start[2 * i : 2 * i + 2]
        a_length, b_length = plan.length[2 * i : 2 * i + 2]
        a = made.tokens[a_start : a_start + a_length].tolist()
        b = made.tokens[b_start : b_start + b_length].tolist()
        assert a and b and batch["tokens"][i][real].tolist() == [CLS, *a, SEP, *b, SEP]
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert batch["type"][i].tolist() == types + [0] * (64 - len(types))
        assert batch["position"][i][real].tolist() == list(range(len(types)))
    np.testing.assert_array_equal(batch["next"], plan.next)
    assert 0.5 < batch["next"].mean() < 0.75
    assert rows_of.padding_share == pytest.approx((batch["segment"] == 0).mean())
    other = TextSource(
        name="test", cache=made, chosen=np.arange(120), options=RowOptions("pairs", 64), seed=1
    )
    assert len(other) != len(rows_of) or (other.plan.start != plan.start).any()


def test_duplicates_are_other_pairs():
    made = cache()
    once, thrice = (source(made, "pairs", duplicates=n).plan for n in (1, 3))
    n = len(once)
    np.testing.assert_array_equal(thrice.start[: 2 * n], once.start)
    assert 2.8 * n < len(thrice) < 3.2 * n
    second = set(map(tuple, thrice.start[2 * n : 4 * n].reshape(-1, 2).tolist()))
    first = set(map(tuple, once.start.reshape(-1, 2).tolist()))
    assert len(first & second) < 0.2 * n


@pytest.mark.parametrize("kind", rows.KINDS)
def test_word_starts(kind):
    made = cache()
    batch = everything(source(made, kind, word_start=True))
    real = batch["segment"] > 0
    starts, tokens = batch["word_start"], batch["tokens"]
    assert starts.dtype == bool and not starts[~real].any()
    after_special = np.zeros_like(real)
    after_special[:, 1:] = np.isin(tokens[:, :-1], [CLS, SEP])
    after_special[:, 0] = kind == "stream"  # a row may begin within a word
    np.testing.assert_array_equal(starts, real & (after_special | STARTS[tokens]))


@pytest.mark.parametrize("kind", rows.KINDS)
def test_a_row_is_the_same_in_any_batch(kind):
    made = source(cache(), kind)
    whole = everything(made)
    picked = np.array([7, 0, 7, len(made) - 1])
    for key, value in made.batch(picked, seed=3, step=9).items():
        np.testing.assert_array_equal(value, whole[key][picked])
    assert {key: len(value) for key, value in made.batch(np.zeros(0, np.int64)).items()} == (
        dict.fromkeys(whole, 0)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rows="pair"), "rows is 'pair'; use one of packed, .*Did you mean 'pairs'"),
        (dict(sequence_length=7), "sequence_length is 7; use a whole number of at least 8"),
        (dict(short_probability=1.5), "short_probability is 1.5"),
        (dict(duplicates=0), "duplicates is 0; use a whole number above 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        fields.read(RowOptions, options, "data.options")


def test_planning_is_fast():
    rng = np.random.default_rng(0)
    made = Cache([rng.integers(5, 60, n) for n in rng.integers(1, 30, 50_000)])
    for kind in rows.KINDS:
        began = time.process_time()
        number = len(source(made, kind, 512))
        assert time.process_time() - began < 5, kind  # each takes less than a second
        assert number > 25_000
