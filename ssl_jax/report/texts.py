"""What a language model predicts: hidden words with its guesses, and the neighbours of words."""

from __future__ import annotations

from ssl_jax.report.inputs import Passage, ReportInputs
from ssl_jax.report.markup import esc, short

_MAX_WORD = 24  # characters shown of a token


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
