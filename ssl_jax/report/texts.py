"""What a language model says: hidden words with its guesses, and the neighbours of words.

Also the table of how well it predicts held-out text, for the page and for the console.
"""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax.report.inputs import Passage, ReportInputs, Results
from ssl_jax.report.markup import esc, short

_MAX_WORD = 24  # characters shown of a token
# Metric -> heading, and how a value is written.
_COLUMNS = {
    "accuracy": ("masked tokens named, %", lambda x: f"{100 * x:.1f}"),
    "perplexity": ("perplexity", lambda x: f"{x:,.1f}"),
    "next_accuracy": ("next sentence, %", lambda x: f"{100 * x:.1f}"),
}
_LOWER_IS_BETTER = {"perplexity"}


def _columns(held_out: Results) -> list[str]:
    return [key for key in _COLUMNS if any(key in row for row in held_out.values())]


def _best(held_out: Results, key: str) -> float | None:
    """None where there are no two to compare."""
    values = [row[key] for row in held_out.values() if key in row]
    if len(values) < 2:
        return None
    return min(values) if key in _LOWER_IS_BETTER else max(values)


def held_out_table(held_out: Results) -> Table:
    """For the console: one row a predictor, the best of a column bold.

    Args:
      held_out: predictor -> "accuracy", "perplexity", ...: see `ssl_jax.evals.held_out`.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 2), pad_edge=False, show_edge=False)
    table.add_column("held-out text", min_width=17)
    columns = _columns(held_out)
    for key in columns:
        table.add_column(_COLUMNS[key][0], justify="right", no_wrap=True)
    for name, row in held_out.items():
        cells = []
        for key in columns:
            text = _COLUMNS[key][1](row[key]) if key in row else "–"
            best = key in row and row[key] == _best(held_out, key)
            cells.append(Text(text, "bold" if best else ""))
        table.add_row(Text(name), *cells)
    return table


def held_out_section(inputs: ReportInputs) -> str:
    """The same table for the page, "" where there is nothing."""
    columns = _columns(inputs.held_out)
    if not columns:
        return ""
    heads = "".join(f'<th scope="col">{esc(_COLUMNS[key][0])}</th>' for key in columns)
    rows = []
    names = list(inputs.held_out)
    for name, row in inputs.held_out.items():
        cells = []
        for key in columns:
            text = _COLUMNS[key][1](row[key]) if key in row else "–"
            best = key in row and row[key] == _best(inputs.held_out, key)
            cells.append(
                f'<td><span class="best">{text}</span></td>' if best else f"<td>{text}</td>"
            )
        kind = ' class="trained"' if name == names[-1] and len(names) > 1 else ""
        rows.append(f'<tr{kind}><th scope="row">{esc(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="table-and-chart"><div><div class="scroll"><table class="summary">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Of the same hidden tokens of text that was not trained on. Unigram: each '
        "token guessed by its frequency in the training text.</p></div></div>"
    )


def passages(inputs: ReportInputs) -> str:
    """Held-out text with its hidden tokens, and what the model takes them for; "" for none."""
    if not inputs.passages:
        return ""
    note = (
        '<p class="note">Underlined tokens were hidden. Beside them: what the model takes each '
        "for, with the probability; the right one is green.</p>"
    )
    return note + "".join(_passage(one) for one in inputs.passages)


def _passage(passage: Passage) -> str:
    hidden = {one.place: one for one in passage.hidden}
    words = []
    for place, piece in enumerate(passage.pieces):
        blank = " " if piece.startswith(" ") else ""
        text = esc(piece.removeprefix(" "))
        words.append(blank + (f"<u>{text}</u>" if place in hidden else text))
    rows = []
    for one in passage.hidden:
        guesses = " ".join(
            f'<li class="{"right" if guess == one.answer else "wrong"}">'
            f"<b>{esc(short(guess, _MAX_WORD))}</b> {100 * share:.0f}%</li>"
            for guess, share in one.guesses
        )
        rows.append(f"<dt>{esc(short(one.answer, _MAX_WORD))}</dt><dd><ul>{guesses}</ul></dd>")
    return (
        f'<div class="passage"><p>{"".join(words)}</p>'
        f'<dl class="guesses">{"".join(rows)}</dl></div>'
    )


def neighbours(inputs: ReportInputs) -> str:
    """Words with those whose vectors in the embedding table are closest; "" for none."""
    if not inputs.word_neighbours:
        return ""
    rows = "".join(
        f"<dt>{esc(short(word, _MAX_WORD))}</dt><dd><ul>"
        + " ".join(
            f"<li><b>{esc(short(near, _MAX_WORD))}</b> {cosine:.2f}</li>" for near, cosine in found
        )
        + "</ul></dd>"
        for word, found in inputs.word_neighbours.items()
    )
    return (
        '<p class="note">Frequent words and their nearest by the cosine of the learned '
        f'embeddings.</p><dl class="guesses">{rows}</dl>'
    )
