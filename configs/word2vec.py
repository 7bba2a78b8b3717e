"""word2vec (Mikolov et al. 2013), https://arxiv.org/abs/1301.3781, https://arxiv.org/abs/1310.4546

    ssl_jax train --config=word2vec:VARIANT --workdir=runs/word2vec

Variants:
  pydoc  skip-gram on the documentation that comes with Python: a minute on two CPU cores
  text8  CBOW on the first 100 MB of English Wikipedia, as the released demo-word.sh trains it
  news   skip-gram of 300 dimensions on news, one sentence a line, as in the second paper

text8 takes one file of words, --config.data.name=text:/data/text8; news takes files of one sentence
a line, e.g. `text:/data/news/*.txt`, or tokens of `ssl_jax prepare_text --tokenizer=words`.

--config.method.loss=shared_negatives is the fast approximation, negative_sampling the exact loss.
Analogies and similarity of words are evaluated afterwards, or by `eval.final_names`:

    ssl_jax evaluate --workdir=runs/word2vec --evals=analogies,word_similarity \
        --set=analogies.path=questions-words.txt --set=word_similarity.path=wordsim353.tsv

Published: 61% of the questions (skip-gram, NEG-15, 300 dimensions, sub-sampling 1e-5, 1 billion
words of news; Mikolov et al. 2013b, Table 1).
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("pydoc", "text8", "news")


def get_config(variant: str = "pydoc") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("word2vec", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="word2vec",
            architecture="skip_gram",
            loss="negative_sampling",  # or shared_negatives, softmax
            window=5,
            num_negatives=5,
            sample=1e-3,
        )
    )
    config.model = ConfigDict(dict(name="word_vectors", dim=100))
    config.optimizer.update(
        name="sgd",
        base_lr=0.025,  # of a single pair
        lr_scaling="none",
        schedule="linear",
        warmup_epochs=0.0,
        final_lr_factor=1e-4,
        momentum=0.0,
        weight_decay=0.0,
    )
    config.data.options = ConfigDict(dict(tokenizer="words", min_count=5))
    config.eval.update(online=False, every_epochs=0.0, final_names=())
    config.checkpoint.best_metric = "eval/analogies/accuracy"
    {"pydoc": _pydoc, "text8": _text8, "news": _news}[variant](config)
    return config


def _pydoc(config: ConfigDict) -> None:
    """40% of the analogies are right; 20% with `method.max_pairs=16` (one run each)."""
    config.batch_size = 16
    config.epochs = 6.0
    config.data.name = "pydoc"
    config.data.options.update(vocab_size=4096, sequence_length=256)
    config.method.loss = "shared_negatives"
    config.eval.update(names=("analogies",), final_names=("analogies",), every_epochs=2.0)


def _text8(config: ConfigDict) -> None:
    """demo-word.sh of the released code: CBOW 200, window 8, 25 negatives, 15 passes."""
    config.batch_size = 128
    config.epochs = 15.0
    config.data.name = "text:/data/text8"
    config.data.num_examples = 17_040  # 17.0 million words; known once prepared
    config.data.options.update(vocab_size=71_295, sequence_length=1000)
    config.method.update(architecture="cbow", window=8, num_negatives=25, sample=1e-4)
    config.model.dim = 200
    config.optimizer.base_lr = 0.05


def _news(config: ConfigDict) -> None:
    """Mikolov et al. 2013b, Sec. 3: 300 dimensions, NEG-15, sub-sampling 1e-5."""
    config.batch_size = 1024
    config.epochs = 1.0
    config.data.name = "text:/data/news/*.txt"
    config.data.num_examples = 1_000_000  # 1 billion words; known once prepared
    config.data.options.update(document="line", vocab_size=692_000, sequence_length=1000)
    config.method.update(num_negatives=15, sample=1e-5, kept_share=0.6)
    config.model.dim = 300
    config.data.split, config.eval.test_split = "train[1%:]", "train[:1%]"
    config.checkpoint.update(every_steps=100)
