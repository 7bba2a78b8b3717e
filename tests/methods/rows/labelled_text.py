"""Methods of labelled texts."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests.methods import labelled_texts
from tests.methods.rows.row import Row
from tests.methods.rows.short_text import TEXT

# Texts with labels, all of whose examples are for training.
LABELLED = {
    **{key: value for key, value in TEXT.items() if key != "data.name"},
    "model.name": "bert_tiny",
    "model.attention_dropout": 0.0,
    "dtype": "float32",
    "data.split": "train",
    "data.num_examples": None,
    "data.num_classes": None,
    "eval.test_split": "train",
    "eval.validation_split": None,
    "eval.final_checkpoint": "last",
    "early_stopping.patience": 0,
    "steps": 100,
}
LABELLED_OPTIONS = dict(tokenizer="wordpiece", vocab_size=120, sequence_length=32)
ROWS = {
    "supervised-text": Row(
        "finetune.py:csv",
        {
            **LABELLED,
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.pool": "pooler",
        },
        embeds=False,
        slow=True,
    ),
    "supervised-gpt": Row(
        "finetune.py:gpt_pydoc",
        {
            **{key: value for key, value in LABELLED.items() if key != "model.name"},
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(dict(tokenizer="bpe", vocab_size=300, sequence_length=32)),
        },
        embeds=False,
        slow=True,
    ),
    "text-to-text": Row(
        "finetune.py:t5_pydoc",
        {
            **{
                key: value
                for key, value in LABELLED.items()
                if key not in ("model.name", "model.max_length")
            },
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(dict(tokenizer="bpe", vocab_size=300, sequence_length=32)),
            "model.head_dim": 8,
            "model.hidden_dim": 16,
        },
        embeds=False,
        slow=True,
    ),
    "supervised-text-lora": Row(
        "finetune.py:csv",
        {
            **LABELLED,
            "adapt.name": "lora",
            "adapt.rank": 2,
            "adapt.dropout": 0.1,
            "data.name": f"csv:{labelled_texts.path('reviews.csv')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
            "model.depth": 2,
            "model.scan_layers": True,
            "model.pool": "pooler",
        },
        embeds=False,
        slow=True,
        untrained=("lora/.*/a$",),  # in the first step, where b is 0
    ),
    "regression": Row(
        "finetune.py:roberta_stsb",
        {
            **LABELLED,
            "data.name": f"csv:{labelled_texts.path('pairs.tsv')}",
            "data.options": ConfigDict(
                dict(LABELLED_OPTIONS, task="regress", text_key="first", text_pair_key="second")
            ),
        },
        embeds=False,
        slow=True,
    ),
    "token-classification": Row(
        "finetune.py:conll",
        {
            **LABELLED,
            "data.name": f"conll:{labelled_texts.path('names.txt')}",
            "data.options": ConfigDict(LABELLED_OPTIONS),
        },
        embeds=False,
    ),
    "question-answering": Row(
        "finetune.py:squad",
        {
            **LABELLED,
            "data.name": f"squad:{labelled_texts.path('questions.json')}",
            "data.options": ConfigDict(dict(LABELLED_OPTIONS, stride=8, query_length=8)),
        },
        embeds=False,
        slow=True,
    ),
}
