"""What a language model predicts: hidden words with its guesses, and the neighbours of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ssl_jax.core.items import Passages
from ssl_jax.report.markup import esc, short

_MAX_WORD = 24  # characters shown of a token
_MAX_TOKENS = 72  # shown of a passage
_WORDS, _NEIGHBOURS = 24, 8  # frequent words, and the nearest of each
_FUNCTION_WORDS = 100  # the most frequent words are articles, pronouns and the like


def passages(item: Passages, pieces: Sequence[str]) -> str:
    """Text with its hidden tokens, and what the model takes them for; "" for none.

    Args:
      item: the rows of tokens.
      pieces: every token as text, with a blank before those that begin a word.
    """
    count = len(item.tokens)
    if not count or not pieces:
        return ""
    text = item.note
    if item.positions is not None:
        text += (
            " Underlined tokens were hidden. Beside them: what the model takes each for, with the "
            "probability; the right one is green."
        )
    note = f'<p class="note">{esc(text.strip())}</p>' if text else ""
    return note + "".join(_passage(item, row, pieces) for row in range(count))


def _passage(item: Passages, row: int, pieces: Sequence[str]) -> str:
    tokens = np.asarray(item.tokens)[row]
    tokens = tokens[: min(int(item.lengths[row]), _MAX_TOKENS)]
    hidden = {}
    if item.positions is not None:
        hidden = {
            int(place): list(zip(guesses, shares, strict=True))
            for place, weight, guesses, shares in zip(
                item.positions[row], item.weights[row], item.guesses[row], item.shares[row],
                strict=True,
            )
            if weight > 0 and place < len(tokens)
        }  # fmt: skip
    words = []
    for place, token in enumerate(tokens):
        piece = pieces[token]
        blank = " " if piece.startswith(" ") else ""
        text = esc(piece.removeprefix(" "))
        words.append(blank + (f"<u>{text}</u>" if place in hidden else text))
    rows = []
    for place, guesses in hidden.items():
        answer = int(tokens[place])
        listed = " ".join(
            f'<li class="{"right" if guess == answer else "wrong"}">'
            f"<b>{_word(pieces[guess])}</b> {100 * share:.0f}%</li>"
            for guess, share in guesses
        )
        rows.append(f"<dt>{_word(pieces[answer])}</dt><dd><ul>{listed}</ul></dd>")
    listed = f'<dl class="guesses">{"".join(rows)}</dl>' if rows else ""
    return f'<div class="passage"><p>{"".join(words)}</p>{listed}</div>'


def _word(piece: str) -> str:
    return esc(short(piece.strip(), _MAX_WORD))


def word_neighbours(
    vectors: np.ndarray, counts: np.ndarray, pieces: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """Frequent words that are not among the most frequent, each with its nearest words.

    Args:
      vectors: float [v d], of the tokens.
      counts: int [v], how often each token occurs.
      pieces: as of `passages`.

    Returns:
      word -> (word, cosine), the nearest first.
    """
    words = [i for i in np.argsort(-counts, kind="stable") if counts[i] and _is_word(pieces[i])]
    unit = vectors[words]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    out = {}
    for number in range(min(_FUNCTION_WORDS, len(words) // 4), len(words), 10)[:_WORDS]:
        cosine = unit @ unit[number]
        cosine[number] = -np.inf
        nearest = np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
        out[pieces[words[number]].strip()] = [
            (pieces[words[i]].strip(), float(cosine[i])) for i in nearest if np.isfinite(cosine[i])
        ]
    return out


def _is_word(piece: str) -> bool:
    return piece.startswith(" ") and len(piece) > 3 and piece[1:].isalpha()


def neighbours(found: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Words with those whose vectors are closest; "" for none."""
    if not found:
        return ""
    rows = "".join(
        f"<dt>{_word(word)}</dt><dd><ul>"
        + " ".join(f"<li><b>{_word(near)}</b> {cosine:.2f}</li>" for near, cosine in nearest)
        + "</ul></dd>"
        for word, nearest in found.items()
    )
    return (
        '<p class="note">Frequent words and their nearest by the cosine of the learned '
        f'embeddings.</p><dl class="guesses">{rows}</dl>'
    )
