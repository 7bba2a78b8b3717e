"""Hidden words, neighbours and held-out scores on the page."""

import numpy as np

from ssl_jax import report
from ssl_jax.core import items
from ssl_jax.report import texts

HELD_OUT = {
    "unigram": {"held_out/accuracy": 0.063, "held_out/perplexity": 471.1},
    "BERT": {
        "held_out/accuracy": 0.193,
        "held_out/perplexity": 152.6,
        "held_out/next_accuracy": 0.71,
    },
}
PIECES = ["[CLS]", " the", " load", "er", " <b>", " read", "[PAD]"]
PASSAGE = items.Passages(
    tokens=np.array([[0, 1, 2, 3, 4, 6]]),
    lengths=np.array([5]),
    positions=np.array([[2, 0]]),
    weights=np.array([[1.0, 0.0]]),  # the second place is none
    guesses=np.array([[[5, 2], [0, 0]]]),
    shares=np.array([[[0.5, 0.25], [0, 0]]]),
)


def test_page_shows_guesses_in_the_text_and_escapes_it():
    page = report.render(
        report.ReportInputs(
            config={"data": {"options": {"rows": "packed", "sequence_length": 64}}},
            results=HELD_OUT,
            shown={"Hidden words": PASSAGE},
            pieces=PIECES,
        )
    )
    assert "[CLS] the <u>load</u>er &lt;b&gt;</p>" in page
    assert '<li class="wrong"><b>read</b> 50%</li>' in page
    assert '<li class="right"><b>load</b> 25%</li>' in page
    assert '<td><span class="best">152.6</span></td>' in page  # lower is better
    assert "<dt>rows</dt><dd>packed, 64 tokens</dd>" in page
    assert "<td>471.1</td>" in page and "<td>–</td>" in page


def test_neighbours_of_words_are_the_nearest_by_cosine():
    pieces = ["[CLS]", *(f" word{chr(97 + i)}" for i in range(24)), " of", "er"]
    counts = np.array([0, *range(50, 26, -1), 90, 90])
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(pieces), 8))
    found = texts.word_neighbours(vectors, counts, pieces)
    # A quarter of the words, the most frequent ones, is left out; then every tenth.
    assert list(found) == ["wordg", "wordq"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    number = pieces.index(" wordg")
    order = sorted((i for i in range(1, 25) if i != number), key=lambda i: -unit[i] @ unit[number])
    assert [word for word, _ in found["wordg"]] == [pieces[i].strip() for i in order[:8]]
    np.testing.assert_allclose(found["wordg"][0][1], unit[order[0]] @ unit[number])
    page = report.render(
        report.ReportInputs(
            config={}, shown={"Neighbours of words": items.TokenVectors(vectors)}, pieces=pieces,
            token_counts=counts,
        )
    )  # fmt: skip
    assert "<dt>wordg</dt>" in page and f"<b>{found['wordg'][0][0]}</b>" in page


def test_a_page_without_text_has_no_such_sections():
    page = report.render(report.ReportInputs(config={}))
    assert "Hidden words" not in page and "Neighbours of words" not in page


def test_a_lower_perplexity_is_better():
    page = report.render(report.ReportInputs(config={}, results=HELD_OUT))
    assert "Accuracy of BERT on hidden parts of held-out examples: <b>19.3%</b>" in page
    only = {name: {"held_out/perplexity": row["held_out/perplexity"]}
            for name, row in HELD_OUT.items()}  # fmt: skip
    page = report.render(report.ReportInputs(config={}, results=only))
    assert "<b>152.6</b>, <b>318.5 below</b> the best baseline, unigram (471.1)" in page


def test_one_predictor_alone_is_not_the_best():
    page = report.render(report.ReportInputs(config={}, results={"BERT": HELD_OUT["BERT"]}))
    assert "<td>152.6</td>" in page and 'class="best"' not in page


def test_page_underlines_what_the_model_wrote():
    written = items.Passages(
        tokens=np.array([[1, 2, 3, 5, 6]]), lengths=np.array([4]), prompt_lengths=np.array([3])
    )
    page = report.render(
        report.ReportInputs(config={}, shown={"Completions": written}, pieces=PIECES)
    )
    assert "the loader <u>read</u></p>" in page
    assert "Underlined tokens are the model&#39;s." in page or "model's." in page
