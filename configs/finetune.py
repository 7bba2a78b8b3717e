"""Fine-tuning a pretrained BERT, RoBERTa, GPT or T5 on labelled text

    ssl_jax train --config=finetune:pydoc --config.init_from=runs/bert \
        --workdir=runs/finetuned

Variants:
  pydoc            classify which part of Python's library a passage of documentation is from: a
                   minute on two CPU cores; without init_from it trains from scratch
  csv              classes of your own texts: --config.data.name=csv:/path/reviews.csv
  glue_TASK        BERT's recipe for a task of GLUE: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte
                   or wnli
  roberta_TASK     RoBERTa's recipe for the same tasks
  squad, squad2    question answering by BERT's recipe: SQuAD 1.1, and 2.0 with unanswerable
                   questions
  conll            named entities by BERT's recipe
  gpt_pydoc        the task of pydoc by a GPT (--config.init_from=runs/gpt), as GPT-1 was fine-tuned
  gpt_TASK         GPT-1's recipe for the same tasks of GLUE, except stsb
  t5_pydoc         the task of pydoc by a T5, which writes the names of the classes
  t5_TASK          T5's recipe for the same tasks of GLUE, except stsb

`init_from` is a run or a folder of the transformers library. Model and tokenizer are read from it
unless the command line sets others; --config.init_weights=False takes only these two, for a
baseline from scratch.

In csv, a tenth of the file is the test split and another tenth decides when to stop. With one file
per split (`csv:/path/{split}.csv`), set data.split, eval.validation_split and eval.test_split.
data.options has the names of the columns (text_key, text_pair_key, label_key).

Published: GLUE test, on average, BERT 79.6 (base) and 82.1 (large); dev, RoBERTa-base MNLI 87.6,
QNLI 92.8, SST-2 94.8, CoLA 63.6. SQuAD 1.1 dev F1: BERT 88.5 and 90.9. CoNLL-2003 test F1: BERT
92.4 and 92.8, with the context of the document. T5, fine-tuned on all tasks together: GLUE test, on
average, 82.7 (base) and 86.4 (large). BERT's learning rates were chosen on the dev split from 2e-5,
3e-5 and 5e-5 (App. A.3), as the sweep sweeps/finetune does.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import base_config
from ssl_jax.configs import common

# Task of GLUE -> labelled examples for training, and the score by which it is known.
GLUE = {
    "cola": (8_551, "matthews"),
    "sst2": (67_349, "accuracy"),
    "mrpc": (3_668, "f1"),
    "qqp": (363_846, "f1"),
    "stsb": (5_749, "spearman"),
    "mnli": (392_702, "accuracy"),
    "qnli": (104_743, "accuracy"),
    "rte": (2_490, "accuracy"),
    "wnli": (635, "accuracy"),
}
# RoBERTa's rates and batches as released; batch 16 and 1e-5 are the others'.
ROBERTA = {
    "rte": (2e-5, 16), "stsb": (2e-5, 16), "mnli": (1e-5, 32), "qnli": (1e-5, 32),
    "qqp": (1e-5, 32), "sst2": (1e-5, 32),
}  # fmt: skip
VARIANTS = (
    "pydoc",
    "csv",
    *(f"glue_{task}" for task in GLUE),
    *(f"roberta_{task}" for task in GLUE),
    "squad",
    "squad2",
    "conll",
    "gpt_pydoc",
    *(f"gpt_{task}" for task in GLUE if task != "stsb"),
    "t5_pydoc",
    *(f"t5_{task}" for task in GLUE if task != "stsb"),
)


def get_config(variant: str = "pydoc") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("finetune", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(name="supervised", freeze_encoder=False, head="linear", head_dropout=0.1)
    )
    config.data.options = ConfigDict(dict(tokenizer="init_from"))
    config.model.name = "init_from"
    # The score of the task is measured in any case; these would be more.
    config.eval.update(names=(), final_names=(), online=False, every_epochs=1.0, batch_size=64)
    config.checkpoint.update(every_epochs=1.0, best_metric="eval/task/accuracy")
    family, _, task = variant.partition("_")
    {
        "pydoc": lambda: _pydoc(config),
        "csv": lambda: _csv(config),
        "glue": lambda: _glue(config, task),
        "roberta": lambda: _roberta(config, task),
        "squad": lambda: _squad(config),
        "squad2": lambda: _squad2(config),
        "conll": lambda: _conll(config),
        "gpt": lambda: _gpt(config, task),
        "t5": lambda: _t5(config, task),
    }[family]()
    return config


def _pydoc(config: ConfigDict) -> None:
    """The rows and the net of bert:pydoc, which has no trained pooler."""
    config.batch_size = 32
    config.epochs = 3.0
    config.data.name = "pydoc"
    config.data.options.update(task="classify", sequence_length=64, vocab_size=4096)
    config.model.update(name="bert_tiny", pool="mean", dropout=0.1)
    _optimizer(config, 3e-4)
    config.optimizer.schedule = "linear"
    config.eval.update(baselines=("majority", "tf_idf"), batch_size=256)


def _gpt(config: ConfigDict, task: str) -> None:
    """Radford et al. 2018, Sec. 4.1: rate 6.25e-5, batch 32, 3 epochs, a warm-up of 0.2%."""
    if task == "pydoc":
        _pydoc(config)
        config.model.name = "gpt2_tiny"
        config.data.options.update(vocab_size=1024, sequence_length=128)
    else:
        config.batch_size = 32
        config.epochs = 3.0
        config.dtype = "bfloat16"
        _glue_data(config, task)
        _optimizer(config, 6.25e-5, warmup=0.002)
        config.optimizer.update(bias_correction=True, eps=1e-8)
    config.method.lm_weight = 0.5
    config.model.update(pool="last", dropout=0.1, attention_dropout=0.1)


def _csv(config: ConfigDict) -> None:
    """BERT's recipe with early stopping on another tenth of the data."""
    config.epochs = 10.0
    config.data.name = "csv:/path/texts.csv"
    config.data.split = "train[:80%]"
    config.data.options.update(task="classify", text_key="text", label_key="label")
    config.data.options.text_pair_key = placeholder(str)
    config.data.options.sequence_length = 128
    _bert(config, base_lr=2e-5)
    config.eval.update(
        validation_split="train[80%:90%]",
        test_split="train[90%:]",
        baselines=("majority", "tf_idf"),
    )
    config.early_stopping.patience = 3


def _bert(config: ConfigDict, *, base_lr: float) -> None:
    """Devlin et al. 2018, App. A.3: batch 32, dropout 0.1, a warm-up of a tenth of the run."""
    config.batch_size = 32
    config.dtype = "bfloat16"
    config.model.update(pool="pooler", dropout=0.1, attention_dropout=0.1)
    _optimizer(config, base_lr)


def _optimizer(config: ConfigDict, base_lr: float, warmup: float = 0.1) -> None:
    """As released: AdamW without bias correction, clipping at 1, and a linear decay that begins
    with the run, not at the end of the warm-up.
    """
    config.optimizer.update(
        name="adamw",
        base_lr=base_lr,
        lr_scaling="none",
        schedule="linear_unshifted",
        warmup_epochs=warmup * config.get_oneway_ref("epochs"),
        weight_decay=0.01,
        bias_correction=False,
        eps=1e-6,
        clip=dict(norm=1.0),
    )


def _glue(config: ConfigDict, task: str) -> None:
    """Three epochs at 2e-5, the lowest rate of App. A.3's grid; scored on dev.

    The labels of GLUE's test splits are not public.
    """
    config.epochs = 3.0
    _glue_data(config, task)
    _bert(config, base_lr=2e-5)


def _glue_data(config: ConfigDict, task: str) -> None:
    config.data.name = f"glue:{task}"
    config.data.num_examples, metric = GLUE[task]
    config.data.options.sequence_length = 128
    if task == "stsb":
        config.method.name = "regression"
    else:
        config.data.num_classes = 3 if task == "mnli" else 2
    config.eval.test_split = "validation_matched" if task == "mnli" else "validation"
    config.checkpoint.best_metric = f"eval/task/{metric}"


def _roberta(config: ConfigDict, task: str) -> None:
    """Liu et al. 2019, section 5.1 and the released commands: 10 epochs, a warm-up of 6%.

    Rows are padded to 512 tokens, so that no text is truncated; most texts are shorter, and
    --config.data.options.sequence_length=128 takes a quarter of the time.
    """
    config.epochs = 10.0
    _glue_data(config, task)
    config.data.options.sequence_length = 512
    base_lr, config.batch_size = ROBERTA.get(task, (1e-5, 16))
    config.dtype = "bfloat16"
    config.method.head = "dense"
    config.model.update(pool="cls", dropout=0.1, attention_dropout=0.1)
    _optimizer(config, base_lr, warmup=0.06)
    config.optimizer.update(
        schedule="linear", weight_decay=0.1, b2=0.98, bias_correction=True, clip=dict(norm=0.0)
    )


def _squad(config: ConfigDict) -> None:
    """The released command: 2 epochs at 3e-5, rows of 384 tokens, windows every 128."""
    config.epochs = 2.0
    config.method.name = "question_answering"
    config.data.name = "squad:/data/squad/{split}-v1.1.json"
    config.data.num_examples = 88_500  # windows, about; known once they are cut
    config.data.options.update(sequence_length=384, stride=128, query_length=64)
    _bert(config, base_lr=3e-5)
    config.model.pool = "mean"  # nothing stands on it
    config.eval.test_split = "dev"
    config.checkpoint.best_metric = "eval/task/f1"


def _squad2(config: ConfigDict) -> None:
    """SQuAD 2.0. The threshold for "no answer" is chosen on dev, the scored split (section 5.3).

    --config.eval.task.null_threshold=0 is a threshold that no label has influenced.
    """
    _squad(config)
    config.data.name = "squad:/data/squad/{split}-v2.0.json"
    config.data.num_examples = 132_000  # windows, about
    config.eval.task.null_threshold = None


def _conll(config: ConfigDict) -> None:
    """Section 5.3, without the context of the document: 3 epochs at 5e-5."""
    config.epochs = 3.0
    config.method.name = "token_classification"
    config.data.name = "conll:/data/conll2003/{split}.txt"
    config.data.update(num_examples=14_041, num_classes=9)
    config.data.options.update(sequence_length=128)
    _bert(config, base_lr=5e-5)
    config.model.pool = "mean"
    config.eval.update(validation_split="valid", test_split="test", final_checkpoint="best")
    config.checkpoint.best_metric = "eval/task/entity_f1"


def _t5(config: ConfigDict, task: str) -> None:
    """Raffel et al. 2020, Sec. 3.1.3: a constant rate, for 2^18 steps; the metric is accuracy."""
    config.method = ConfigDict(dict(name="text_to_text"))
    if task == "pydoc":
        _pydoc(config)
        config.model = ConfigDict(dict(name="t5_tiny", dropout=0.1))
        config.data.options.update(tokenizer="init_from|bpe", vocab_size=1024, sentinels=16)
        return
    _glue_data(config, task)
    config.batch_size = 128
    config.steps = 2**18
    config.dtype = "bfloat16"
    config.data.options.sequence_length = 512
    config.model.update(dropout=0.1, attention_dropout=0.1)
    config.eval.every_epochs = 0.0
    config.checkpoint.every_steps = 5_000
    config.optimizer.update(
        name="adafactor", base_lr=1e-3, lr_scaling="none", schedule="constant", weight_decay=0.0
    )
    config.optimizer.warmup_epochs = 0.0
