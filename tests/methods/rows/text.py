"""Methods of text without labels."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests.methods.rows.row import Row
from tests.methods.rows.short_text import TEXT, TEXT_OPTIONS

WORDS = {
    "data.name": TEXT["data.name"],
    "data.num_examples": None,
    "data.options": ConfigDict({**TEXT_OPTIONS, "tokenizer": "words", "min_count": 2}),
    "model.dim": 8,
    "method.window": 3,
    "steps": 100,
}
ROWS = {
    "bert": Row(
        "bert.py:pydoc",
        {
            **TEXT,
            "method.next_sentence": True,
            "method.num_masks": 10,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, rows="pairs")),
        },
        embeds=False,
    ),
    "roberta": Row(
        "roberta.py:pydoc",
        {
            **TEXT,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, tokenizer="bpe", rows="full_sentences")),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.remat": "dots",
        },
        embeds=False,
        slow=True,
    ),
    "gpt": Row(
        "gpt.py:pydoc",
        {
            **TEXT,
            "data.options": ConfigDict(dict(TEXT_OPTIONS, tokenizer="bpe", rows="stream")),
        },
        embeds=False,
    ),
    "t5": Row(
        "t5.py:pydoc",
        {
            **{key: value for key, value in TEXT.items() if key != "model.max_length"},
            "data.options": ConfigDict(
                dict(TEXT_OPTIONS, tokenizer="bpe", rows="stream", sentinels=8)
            ),
            "model.head_dim": 8,
            "model.hidden_dim": 16,
        },
        embeds=False,
    ),
    "word2vec": Row(
        "word2vec.py:pydoc",
        {**WORDS, "method.loss": "shared_negatives", "method.block_size": 8},
        untrained=("encoder",),  # at first: the output vectors are 0
        embeds=False,
    ),
    "word2vec-cbow": Row(
        "word2vec.py:text8",
        {**WORDS, "method.loss": "negative_sampling", "method.num_negatives": 3},
        untrained=("encoder",),
        embeds=False,
        slow=True,
    ),
}
