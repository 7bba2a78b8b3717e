"""Pairs for next sentence prediction, against BERT's own procedure written down in Python."""

import random

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import pairs


def corpus(num_documents, seed=0, longest=40, tokens=30):
    """(sentence_start, num_sentences, token_start) of random documents."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, longest, num_documents)
    lengths = rng.integers(1, tokens, counts.sum())
    return np.cumsum(counts) - counts, counts, np.concatenate([[0], np.cumsum(lengths)])


def reference(sentence_start, counts, token_start, length, short, seed):
    """The lengths and labels that create_pretraining_data.py draws."""
    draw = random.Random(seed)
    lengths = np.diff(token_start).tolist()
    documents = [lengths[s : s + n] for s, n in zip(sentence_start, counts, strict=True)]
    room = length - 3
    out = []
    for number, document in enumerate(documents):
        target = draw.randint(2, room) if draw.random() < short else room
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(chunk) >= target:
                a_end = draw.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                a, b = sum(chunk[:a_end]), 0
                is_random = len(chunk) == 1 or draw.random() < 0.5
                if is_random:
                    other = number
                    while other == number:
                        other = draw.randint(0, len(documents) - 1)
                    start = draw.randint(0, len(documents[other]) - 1)
                    for one in documents[other][start:]:
                        b += one
                        if b >= target - a:
                            break
                    i -= len(chunk) - a_end
                else:
                    b = sum(chunk[a_end:])
                while a + b > room:
                    a, b = (a - 1, b) if a > b else (a, b - 1)
                out.append((a, b, int(is_random)))
                chunk = []
            i += 1
    return np.array(out)


def test_statistics_are_those_of_the_reference():
    arrays = corpus(3000)
    found = pairs.sample(*arrays, 128, 0.1, 0)
    a, b, label = reference(*arrays, 128, 0.1, 0).T
    n = len(label)
    assert abs(len(found.next) - n) < 0.02 * n
    for mine, theirs in ((found.next, label), (found.a_length, a), (found.b_length, b)):
        error = np.hypot(mine.std() / len(mine) ** 0.5, theirs.std() / n**0.5)
        assert abs(mine.mean() - theirs.mean()) < 3 * error
    # The whole distribution of lengths: the largest distance of the two (Kolmogorov, Smirnov).
    grid = np.arange(130)
    for mine, theirs in ((found.a_length, a), (found.b_length, b)):
        steps = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (mine, theirs)]
        assert np.abs(steps[0] - steps[1]).max() < 1.63 * (2 / n) ** 0.5


def test_half_of_the_pairs_are_random_and_single_sentences_always():
    start, counts, tokens = corpus(4000, seed=1)
    found = pairs.sample(start, counts, tokens, 128, 0.0, 7)
    document = np.repeat(np.arange(len(counts)), np.diff(tokens[np.append(start, len(tokens) - 1)]))
    same = document[found.a_start] == document[found.b_start]
    assert not (found.next[same] == 1).any() and (found.next[~same] == 1).all()
    # B follows A: without truncation it begins where A ends.
    follows = (found.next == 0) & (found.a_length + found.b_length < 125)
    assert follows.sum() > 500
    np.testing.assert_array_equal((found.a_start + found.a_length)[follows], found.b_start[follows])
    # A chunk of one sentence is the last of its document, or longer than a row.
    single = pairs.sample(np.arange(500), np.ones(500, int), np.arange(501) * 9, 64, 0.1, 0)
    assert (single.next == 1).all() and len(single.next) == 500
    # Documents of two sentences: one chunk, half of them random; then the second alone.
    two = pairs.sample(np.arange(4000) * 2, np.full(4000, 2), np.arange(8001) * 9, 64, 0.0, 0)
    first = two.a_start % 18 == 0
    share = two.next[first].mean()
    assert first.sum() == 4000 and abs(share - 0.5) < 3 * 0.5 / 4000**0.5
    assert (two.next[~first] == 1).all() and (~first).sum() == two.next[first].sum()


def test_random_texts_come_from_everywhere():
    start, counts, tokens = corpus(20, seed=2, longest=6)
    draws = [pairs.sample(start, counts, tokens, 64, 0.1, seed) for seed in range(200)]
    document = np.repeat(np.arange(20), np.diff(tokens[np.append(start, len(tokens) - 1)]))
    picked = np.concatenate([document[one.b_start[one.next == 1]] for one in draws])
    shares = np.bincount(picked, minlength=20) / len(picked)
    assert (np.abs(shares - 1 / 20) < 0.02).all()


def test_a_tenth_of_the_documents_gives_short_pairs():
    n = 8000
    start, tokens = np.arange(n) * 60, np.arange(60 * n + 1) * 5
    found = pairs.sample(start, np.full(n, 60), tokens, 128, 0.1, 3)
    follows = (found.a_start % 300 == 0) & (found.next == 0)  # the first pair of a document
    short = (found.a_length + found.b_length)[follows] < 125
    # Targets are 2..125; those up to 5 give a single sentence, whose B is random.
    expected = 0.1 * 115 / 124 / (0.9 + 0.1 * 120 / 124)
    assert abs(short.mean() - expected) < 3 * (expected / len(short)) ** 0.5
    found = pairs.sample(start, np.full(n, 60), tokens, 128, 0.0, 3)
    follows = (found.next == 0) & (found.a_start % 300 == 0)
    assert (found.a_length + found.b_length == 125)[follows].all() and follows.sum() > 3000


def test_what_is_cut_off_is_at_both_ends():
    # Two sentences of 100 tokens: 200 tokens to fit into 61.
    n = 3000
    found = pairs.sample(np.arange(n) * 2, np.full(n, 2), np.arange(2 * n + 1) * 100, 64, 0.0, 0)
    assert (found.a_length == 31).all() and (found.b_length == 30).all()
    for start, cut in ((found.a_start, 69), (found.b_start, 70)):
        front = start % 100  # Binomial(cut, 1/2)
        assert front.min() > 0 and front.max() < cut
        assert abs(front.mean() - cut / 2) < 3 * (cut / 4 / len(front)) ** 0.5
        assert abs(front.var() - cut / 4) < 3 * (cut / 4) * (2 / len(front)) ** 0.5


@pytest.mark.parametrize(
    ("a", "b", "room"), [(9, 3, 8), (3, 9, 8), (5, 5, 8), (5, 5, 7), (2, 2, 9)]
)
def test_the_longer_one_is_cut(a, b, room):
    cut = pairs._excess(np.array([a]), np.array([b]), room)
    left_a, left_b = a, b
    while left_a + left_b > room:
        left_a, left_b = (left_a - 1, left_b) if left_a > left_b else (left_a, left_b - 1)
    assert (a - cut[0][0], b - cut[1][0]) == (left_a, left_b)


def test_what_is_drawn_depends_on_the_seed_and_the_place_alone():
    start, counts, tokens = corpus(50)
    one, two = (pairs.sample(start, counts, tokens, 64, 0.1, 5) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    other = pairs.sample(start, counts, tokens, 64, 0.1, 6)
    assert len(other.next) != len(one.next) or (other.b_start != one.b_start).any()


def test_an_enormous_document():
    counts = np.array([50_000, 3])
    tokens = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(1, 40, 50_003))])
    found = pairs.sample(np.array([0, 50_000]), counts, tokens, 64, 1.0, 0)
    assert (np.diff(found.a_start) > 0).all()
    assert (found.a_length > 0).all() and (found.b_length > 0).all()
    assert (found.a_length + found.b_length).max() <= 61
    assert found.b_start.max() < tokens[-1]


def test_one_document_is_not_enough():
    with pytest.raises(UserError, match="rows=pairs takes the random half of its pairs from other"):
        pairs.sample(np.array([0]), np.array([5]), np.arange(6) * 4, 64, 0.1, 0)
