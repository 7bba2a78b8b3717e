"""Analogies and similarities of words on spaces made for them."""

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.evals import analogies, word_similarity
from ssl_jax.evals.word_space import WordSpace

SEXES = ["king", "queen", "man", "woman", "uncle", "aunt"]


def space_of(vectors, words, counts=None, size=100):
    counts = np.arange(len(words), 0, -1) if counts is None else np.asarray(counts)
    return WordSpace.of(np.asarray(vectors), [f" {word}" for word in words], counts, size)


@pytest.fixture(scope="module")
def space():
    """Words of three kinds in two forms each, with a few others."""
    rng = np.random.default_rng(0)
    kinds, form, others = rng.normal(size=(3, 16)), rng.normal(size=16), rng.normal(size=(5, 16))
    vectors = [kind + sign * form for kind in kinds for sign in (-1, 1)]
    return space_of([*vectors, *others], [*SEXES, "apple", "pear", "plum", "fig", "kiwi"])


def file_of(tmp_path, text):
    path = tmp_path / "file.txt"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("how", ["3CosAdd", "3CosMul"])
def test_ranks_are_those_of_loops_over_all_words(space, how):
    asked = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 3, 10], [2, 9, 2, 1]])
    for a, b, c, d in asked:
        scores = {}
        for x, vector in enumerate(space.unit.astype(np.float64)):
            to = {word: space.unit[word] @ vector for word in (a, b, c)}
            if how == "3CosAdd":
                scores[x] = to[b] - to[a] + to[c]
            else:
                near = {word: (cosine + 1) / 2 for word, cosine in to.items()}
                scores[x] = near[b] * near[c] / (near[a] + 0.001)
        answers = [x for x in scores if x not in (a, b, c)]
        rank = sorted(answers, key=lambda x: -scores[x]).index(d)
        assert analogies._ranks(space.unit, np.array([[a, b, c, d]]), how)[0] == rank


def test_a_space_with_a_direction_for_a_relation_solves_it(space):
    pairs = [SEXES[i : i + 2] for i in (0, 2, 4)]
    asked = [analogies.Question("family", (*p, *q)) for p in pairs for q in pairs if p != q]
    asked.append(analogies.Question("gram1", ("King", "QUEEN", "apple", "pear")))
    asked.append(analogies.Question("gram1", ("king", "queen", "unheard", "pear")))
    scores = analogies.score(space, asked)
    assert scores["semantic"] == 1
    assert scores["questions"] == 7 and scores["known_share"] == 7 / 8
    assert scores["accuracy"] == (6 + scores["syntactic"]) / 7


def test_a_word_of_the_question_is_no_answer(space):
    asked = [analogies.Question("", ("king", "queen", "man", "queen"))]
    assert analogies.score(space, asked)["top5"] == 0


def test_only_the_most_frequent_words_of_equal_spelling_are_known():
    vectors = np.eye(5)
    space = space_of(vectors, ["a", "B", "b", "c", "d"], counts=[1, 2, 5, 9, 0], size=3)
    assert space.words == ("c", "b", "a")
    np.testing.assert_array_equal(space.unit, vectors[[3, 2, 0]])
    assert space.rows(("C", "B")) == [0, 1] and space.rows(("d",)) is None
    texts = [" word", "piece", " "]
    assert WordSpace.of(np.eye(3), texts, np.array([1, 9, 8]), 9).words == ("word",)


def test_embedded_questions_have_four_words_of_two_pairs():
    asked = analogies.questions(None)
    assert len(asked) > 400 and all(len(set(question.words)) == 4 for question in asked)


def test_questions_of_a_file(tmp_path):
    path = file_of(tmp_path, ": capitals\nAthens Greece Oslo Norway\n\n: gram1-x\na b c d\n")
    first, second = analogies.questions(path)
    assert first == ("capitals", ("Athens", "Greece", "Oslo", "Norway"))
    assert second.section == "gram1-x"


@pytest.mark.parametrize(
    "text, message",
    [
        (": a\nAthens Greece Oslo\n", r"line 2: 'Athens Greece Oslo' has 3 words"),
        (": a\n", "has no questions"),
        ("", "has no lines"),
    ],
)
def test_a_bad_file_of_questions_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        analogies.questions(file_of(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_unknown_words_are_one_line(space):
    with pytest.raises(UserError, match=r"eval.analogies.path=nowhere cannot be read"):
        analogies.questions("nowhere")
    with pytest.raises(UserError, match="none of the 1 questions of x"):
        analogies.score(space, [analogies.Question("", ("m", "n", "o", "p"))], name="x")


def test_similarity_is_the_rank_correlation(space):
    scipy_stats = pytest.importorskip("scipy.stats")
    words = space.words
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(words), (30, 2))
    judged = rng.integers(0, 6, 30).astype(float)  # with ties
    pairs = [
        word_similarity.Pair(words[i], words[j], x) for (i, j), x in zip(rows, judged, strict=True)
    ]
    cosine = np.einsum("nd,nd->n", space.unit[rows[:, 0]], space.unit[rows[:, 1]])
    scores = word_similarity.score(space, [*pairs, word_similarity.Pair("king", "unheard", 1.0)])
    expected = scipy_stats.spearmanr(cosine, judged).statistic
    np.testing.assert_allclose(scores["spearman"], expected, atol=1e-6)
    assert scores["pairs"] == 30 and scores["known_share"] == 30 / 31


def test_pairs_of_a_file(tmp_path):
    text = "# WordSim\nWord 1\tWord 2\tHuman (mean)\nlove\tsex\t6.77\ntiger\tcat\t7.35\n"
    pairs = word_similarity.pairs(file_of(tmp_path, text))
    assert pairs == [("love", "sex", 6.77), ("tiger", "cat", 7.35)]
    with pytest.raises(UserError, match=r"line 2: 'tiger cat 7.35' is not two words"):
        word_similarity.pairs(file_of(tmp_path, "a\tb\t1\ntiger cat 7.35\n"))
    with pytest.raises(UserError, match=r"eval.word_similarity.path is not set"):
        word_similarity.pairs(None)
    few = [word_similarity.Pair("a", "b", 1.0)]
    with pytest.raises(UserError, match="0 of the 1 pairs"):
        word_similarity.score(space_of(np.eye(2), ["x", "y"]), few)
