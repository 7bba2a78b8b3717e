"""Hidden words, neighbours and held-out scores on the page."""

from ssl_jax import report

HELD_OUT = {
    "unigram": {"held_out/accuracy": 0.063, "held_out/perplexity": 471.1},
    "BERT": {
        "held_out/accuracy": 0.193,
        "held_out/perplexity": 152.6,
        "held_out/next_accuracy": 0.71,
    },
}
PASSAGE = report.Passage(
    pieces=["[CLS]", " the", " load", "er", " <b>"],
    hidden=[report.HiddenToken(2, "load", [("read", 0.5), ("load", 0.25)])],
)


def test_page_shows_guesses_in_the_text_and_escapes_it():
    page = report.render(
        report.ReportInputs(
            config={"data": {"options": {"rows": "packed", "sequence_length": 64}}},
            results=HELD_OUT,
            passages=[PASSAGE],
            word_neighbours={"raise": [("raised", 0.43), ("<i>", 0.1)]},
        )
    )
    assert "[CLS] the <u>load</u>er &lt;b&gt;" in page
    assert '<li class="wrong"><b>read</b> 50%</li>' in page
    assert '<li class="right"><b>load</b> 25%</li>' in page
    assert "<b>raised</b> 0.43" in page and "<b>&lt;i&gt;</b> 0.10" in page
    assert '<td><span class="best">152.6</span></td>' in page  # lower is better
    assert "<dt>rows</dt><dd>packed, 64 tokens</dd>" in page
    assert "<td>471.1</td>" in page and "<td>–</td>" in page


def test_a_page_without_text_has_no_such_sections():
    page = report.render(report.ReportInputs(config={}))
    assert "Hidden words" not in page and "Neighbours of words" not in page


def test_a_lower_perplexity_is_better():
    page = report.render(report.ReportInputs(config={}, results=HELD_OUT))
    assert "Accuracy of what is hidden of held-out examples of BERT: <b>19.3%</b>" in page
    only = {name: {"held_out/perplexity": row["held_out/perplexity"]}
            for name, row in HELD_OUT.items()}  # fmt: skip
    page = report.render(report.ReportInputs(config={}, results=only))
    assert "<b>152.6</b>, <b>318.5 below</b> unigram (471.1)" in page


def test_one_predictor_alone_is_not_the_best():
    page = report.render(report.ReportInputs(config={}, results={"BERT": HELD_OUT["BERT"]}))
    assert "<td>152.6</td>" in page and 'class="best"' not in page
