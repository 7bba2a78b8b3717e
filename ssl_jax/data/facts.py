"""Writes the facts of the data into a run's config."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax import modalities
from ssl_jax.core.method import DataSpec


def with_facts(
    config: ConfigDict,
    spec: DataSpec,
    available: int | None = None,
    class_names: Sequence[str] | None = None,
) -> ConfigDict:
    """A copy of a config whose data section describes the data.

    A workdir's config then describes the run without the data at hand.

    Args:
      config: the resolved config.
      spec: of what the run trains on.
      available: examples in the split, where `data.labelled_fraction` left some of them out.
      class_names: names of the classes, by number. Other data with the same classes then have the
        same numbers.
    """
    config = config.copy_and_resolve_references()
    facts = modalities.of(spec).facts(spec)
    options = facts.pop("options", {})
    if spec.task is not None and class_names is not None:
        options["class_names"] = tuple(class_names)
    with config.unlocked():
        config.data.num_examples = available or spec.num_examples
        config.data.num_classes = spec.num_classes
        if class_names is not None:
            config.data.class_names = tuple(class_names)
        for key, value in facts.items():
            config.data[key] = value
        for key, value in options.items():
            config.data.options[key] = ConfigDict(value) if isinstance(value, dict) else value
    return config.lock()
