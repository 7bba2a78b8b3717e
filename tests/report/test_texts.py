"""Hidden words, neighbours and held-out scores on the page and the console."""

import io

from rich.console import Console

from ssl_jax import report

HELD_OUT = {
    "unigram": {"accuracy": 0.063, "perplexity": 471.1},
    "BERT": {"accuracy": 0.193, "perplexity": 152.6, "next_accuracy": 0.71},
}
PASSAGE = report.Passage(
    pieces=["[CLS]", " the", " load", "er", " <b>"],
    hidden=[report.HiddenToken(2, "load", [("read", 0.5), ("load", 0.25)])],
)


def test_page_shows_guesses_in_the_text_and_escapes_it():
    page = report.render(
        report.ReportInputs(
            config={"data": {"options": {"rows": "packed", "sequence_length": 64}}},
            held_out=HELD_OUT,
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


def test_console_table_marks_the_best():
    console = Console(width=100, record=True, force_terminal=True, file=io.StringIO())
    console.print(report.held_out_table(HELD_OUT))
    text = console.export_text(styles=True)
    bold = [part.split("\x1b[0m")[0].strip() for part in text.split("\x1b[1m")[1:]]
    assert {"152.6", "19.3"} <= set(bold) and not {"471.1", "6.3"} & set(bold)
    assert "71.0" in text and "71.0" not in bold  # nothing to compare it with


def test_one_predictor_alone_is_not_the_best():
    page = report.render(report.ReportInputs(config={}, held_out={"BERT": HELD_OUT["BERT"]}))
    assert "<td>152.6</td>" in page and 'class="best"' not in page
