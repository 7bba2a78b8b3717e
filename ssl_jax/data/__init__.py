"""Host side data: sources of images and text, samplers, and the stream of batches.

    source = data.load("folder:/data/birds", "train[:90%]", image_size=224)
    for batch in data.batches(source, batch_size=256, seed=0, workers=8): ...

    source = data.load("text:/data/books/*.txt", tokenizer="wordpiece", sequence_length=512)

`kinds` has a file for each kind of data set, which declares its options; `samplers` has a file for
each sampler.

The stream is a pure function of (seed, step): the data state of a run is its step.
"""

from ssl_jax.core.method import DataSpec
from ssl_jax.data.cache import in_memory
from ssl_jax.data.catalog import (
    from_config,
    kind_of,
    kinds,
    load,
    missing_splits,
    spec_from_config,
    split_size,
    splits,
    steps_per_epoch,
)
from ssl_jax.data.facts import with_facts
from ssl_jax.data.few_labels import FewLabels
from ssl_jax.data.pipeline import batches, epoch_batches
from ssl_jax.data.samplers.registry import from_config as sampler_from_config
from ssl_jax.data.source import Source

__all__ = [
    "DataSpec",
    "FewLabels",
    "Source",
    "batches",
    "epoch_batches",
    "from_config",
    "in_memory",
    "kind_of",
    "kinds",
    "load",
    "missing_splits",
    "sampler_from_config",
    "spec_from_config",
    "split_size",
    "splits",
    "steps_per_epoch",
    "with_facts",
]
