"""Sub-sampling, windows and negatives against the formulas and loops."""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.views import words as words_lib

LECTURE = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]


def words_of(tokens, segment=None):
    tokens = jnp.asarray(tokens, jnp.int32)
    segment = jnp.ones_like(tokens) if segment is None else jnp.asarray(segment, jnp.int32)
    return words_lib.Words(tokens, segment, jnp.float32(0))


def all_pairs(words, reach, window):
    """(context, centre) of every pair, by loops."""
    tokens, segment = np.asarray(words.tokens), np.asarray(words.segment)
    return [
        (tokens[j], tokens[i])
        for i in range(len(tokens))
        for j in range(max(0, i - window), min(len(tokens), i + window + 1))
        if i != j and segment[i] == segment[j] > 0 and abs(i - j) <= reach[i]
    ]


def test_keep_probability_is_below_1_above_the_squared_golden_ratio():
    f_over_t = np.array([0.5, 2.617, 2.619, 100.0])
    counts = np.round(f_over_t * 1000)
    keep = words_lib.keep_probability(counts, 1000 / counts.sum())
    ratio = f_over_t[2:]
    np.testing.assert_array_equal(keep[:2], 1)
    assert np.all(keep[2:] < 1)
    np.testing.assert_allclose(keep[2:], (np.sqrt(ratio) + 1) / ratio, rtol=1e-4)
    np.testing.assert_array_equal(words_lib.keep_probability([0, 3], 0.0), [0, 1])


def test_alias_table_has_exactly_the_distribution():
    weights = np.random.default_rng(0).pareto(0.7, 300) + 1e-3
    weights[5] = 0
    threshold, alias = words_lib.alias_table(weights)
    share = threshold.astype(np.float64)
    np.add.at(share, alias, 1.0 - threshold)
    np.testing.assert_allclose(share / 300, weights / weights.sum(), atol=1e-6)


def test_drawn_words_have_the_distribution():
    weights = np.array([1.0, 2, 0, 5, 8])
    threshold, alias = (jnp.asarray(x) for x in words_lib.alias_table(weights))
    drawn = words_lib.draw(jax.random.key(0), threshold, alias, (40_000,))
    share = np.bincount(drawn, minlength=5) / 40_000
    p = weights / weights.sum()
    assert np.all(np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 40_000) + 1e-9)


def test_words_that_stay_close_the_gaps():
    keep = jnp.array([0.0, 1.0, 0.0, 1.0])
    tokens = jnp.array([1, 2, 3, 3, 0, 1], jnp.int32)
    segment = jnp.array([1, 1, 1, 2, 2, 0], jnp.int32)
    subsample = jax.jit(words_lib.subsample, static_argnames="capacity")
    words = subsample(jax.random.key(0), tokens, segment, keep, capacity=5)
    np.testing.assert_array_equal(words.tokens, [1, 3, 3, 0, 0])
    np.testing.assert_array_equal(words.segment, [1, 1, 2, 0, 0])
    assert words.left_out == 0
    fewer = subsample(jax.random.key(0), tokens, segment, keep, capacity=2)
    np.testing.assert_array_equal(fewer.tokens, [1, 3])
    assert fewer.left_out == 1


def test_a_word_stays_with_its_probability():
    keep = jnp.array([1.0, 0.3])
    tokens = jnp.ones((20_000,), jnp.int32)
    words = words_lib.subsample(jax.random.key(1), tokens, tokens, keep, 20_000)
    assert abs(float(jnp.mean(words.segment > 0)) - 0.3) < 4 * np.sqrt(0.21 / 20_000)


def test_sentence_of_the_lecture_has_30_pairs():
    tokens = np.unique(LECTURE, return_inverse=True)[1]
    words, reach = words_of(tokens), jnp.full((9,), 2)
    pairs = words_lib.skip_gram_pairs(words, reach, window=2)
    assert int(pairs.valid.sum()) == 30
    names = np.unique(LECTURE)
    of_the = [
        (names[t], names[c])
        for c, t, ok in zip(pairs.contexts[:, 0], pairs.targets, pairs.valid, strict=True)
        if ok
    ]
    assert of_the[:2] == [("the", "quick"), ("the", "brown")]


def test_pairs_blocks_and_windows_are_those_of_loops():
    rng = np.random.default_rng(0)
    segment = np.repeat([1, 2, 3, 0], [9, 1, 8, 3])
    words = words_of(rng.integers(0, 50, 21), segment)
    reach = rng.integers(1, 4, 21)
    expected = collections.Counter(all_pairs(words, reach, 3))

    def counted(contexts, targets, valid):
        kept = zip(contexts.ravel(), targets.ravel(), valid.ravel(), strict=True)
        return collections.Counter((c, t) for c, t, ok in kept if ok)

    pairs = words_lib.skip_gram_pairs(words, reach, window=3)
    arrays = np.asarray(pairs.contexts), np.asarray(pairs.targets), np.asarray(pairs.valid)
    assert counted(*arrays) == expected
    cbow = words_lib.cbow_pairs(words, reach, window=3)
    targets = np.broadcast_to(np.asarray(cbow.targets)[:, None], cbow.contexts.shape)
    assert counted(np.asarray(cbow.contexts), targets, np.asarray(cbow.context_valid)) == expected
    blocks = words_lib.blocks(words, jnp.asarray(reach), window=3, size=4)
    shape = blocks.pairs.shape
    contexts = np.broadcast_to(np.asarray(blocks.inputs)[:, :, None], shape)
    targets = np.broadcast_to(np.asarray(blocks.targets)[:, None, :], shape)
    assert counted(contexts, targets, np.asarray(blocks.pairs)) == expected


def test_places_for_pairs_are_enough():
    reach = words_lib.draw_reach(jax.random.key(0), 400, 5)
    assert int(reach.min()) == 1 and int(reach.max()) == 5
    assert abs(float(reach.mean()) - 3) < 4 * np.sqrt(2 / 400)
    pairs = words_lib.skip_gram_pairs(words_of(np.arange(400)), reach, window=5)
    assert int(pairs.valid.sum()) == len(all_pairs(words_of(np.arange(400)), np.asarray(reach), 5))
