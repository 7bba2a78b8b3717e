"""Opens a data set by its name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec
from ssl_jax.data import subsplit
from ssl_jax.data.cache import in_memory
from ssl_jax.data.few_labels import FewLabels
from ssl_jax.data.known import facts_of
from ssl_jax.data.labelled import labelled_text
from ssl_jax.data.request import Request, check_options, keyword_only
from ssl_jax.data.samplers.registry import from_config as sampler_from_config
from ssl_jax.data.source import Source, image_spec
from ssl_jax.data.text import text_source

# Kind -> what follows its colon, for messages. The module of that name has a function `dataset`.
KINDS = {
    "digits": "", "shapes": "", "folder": "PATH", "tfds": "NAME", "tar": "PATTERN",
    "pydoc": "", "text": "PATTERN", "jsonl": "PATTERN", "parquet": "PATTERN", "tokens": "DIR",
    "csv": "PATTERN", "glue": "NAME", "squad": "PATTERN", "conll": "PATTERN",
}  # fmt: skip


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    strict: bool = False,
    seed: int = 0,
    cache: bool = False,
    **options: Any,
) -> Source:
    """Opens a split of a data set.

    Args:
      name: "digits", "folder:PATH", "text:PATTERN" and so on, see above.
      split: a split or sub-split: "train[:80%]", "train[1000:]", "train+test", "all".
      image_size: side of the square canvas, pixels. Images are resized (bicubic) so that their
        central square fills it. Default: the size the data set's images have, if they have one.
      channels: 1 (luminance) or 3; default what the data set has.
      strict: whether an unreadable image is an error; else the next readable one replaces it.
      seed: of the generated data of `shapes`.
      cache: decode every image now and keep it in memory.
      **options: of images `host_crops` and `center` (see `image.Canvas`); of text those of
        `text_source`; of labelled text those of `tasks`; and the keyword arguments of the kind's
        own function `dataset`, `corpus` or `examples`, such as `num_generated` of `shapes`.

    Raises:
      UserError: an unknown data set, split or option, data that are not there, or a bad value.
    """
    opened = _open(name, dict(
        options, image_size=image_size, channels=channels, strict=strict, seed=seed
    ))  # fmt: skip
    whole: dict[str, Source] = {}

    def source(part: str) -> Source:
        if part not in whole:
            whole[part] = opened.source(part)
        return whole[part]

    aliases = getattr(opened, "aliases", {})
    parts = subsplit.parse(split, opened.splits, lambda part: source(part).extent, aliases)
    selected = [
        source(part.split).select(part.start, part.stop)
        if part.stop - part.start < source(part.split).extent
        else source(part.split)
        for part in parts
    ]
    joined = selected[0].joined(selected[1:]) if len(selected) > 1 else selected[0]
    joined = dataclasses.replace(joined, name=f"{name}[{split}]")
    return in_memory(joined) if cache and not joined.in_memory else joined


def splits(name: str, **options: Any) -> tuple[str, ...]:
    """The splits of a data set; takes what `load` takes.

    Raises:
      UserError: as `load`.
    """
    return tuple(_open(name, options).splits)


def from_config(section: ConfigDict, *, seed: int = 0) -> Source:
    """Opens what a config's data section names, with the labels that it leaves (`few_labels`).

    Raises:
      UserError: as `load` and `FewLabels.select`.
    """
    few = FewLabels.of(section)
    source = load(section.name, section.split, **_options_of(section, seed))
    return source if few is None else few.select(source)


def missing_splits(
    section: ConfigDict, wanted: Sequence[str]
) -> tuple[list[list[str]], tuple[str, ...]]:
    """What of some splits and sub-splits the data set of a config's data section lacks.

    Returns:
      (of each one wanted the names that are no splits, what splits there are). The data set is
      opened once, no example of it read.

    Raises:
      UserError: as `load`, but for a split that is not there.
    """
    opened = _open(section.name, _options_of(section, seed=0))
    aliases = getattr(opened, "aliases", {})
    missing = [subsplit.missing(text, opened.splits, aliases) for text in wanted]
    return missing, tuple(opened.splits)


def _options_of(section: ConfigDict, seed: int) -> dict[str, Any]:
    """The keyword arguments of `load` in a config's data section."""
    return dict(
        image_size=section.image_size,
        channels=section.channels,
        strict=section.strict,
        seed=seed,
        host_crops=section.host_crops.to_dict(),
        **section.options.to_dict(),
    )


def spec_from_config(section: ConfigDict) -> DataSpec:
    """The DataSpec of a config's data section, without touching the data.

    `num_examples`, `num_classes`, `image_size` and `channels` of the section count; what they leave
    open is filled in for data sets whose facts are known.

    Raises:
      UserError: an unknown data set or split, or facts missing.
    """
    num_examples = split_size(section)
    facts = facts_of(section.name, section.options.to_dict())
    num_classes = section.num_classes
    if num_classes is None and facts is not None:
        num_classes = facts.num_classes
    kind, _, location = section.name.partition(":")
    options = section.options.to_dict()
    few = FewLabels.of(section)
    if labelled_text.is_task(kind, options):
        if few is not None:
            num_examples = few.size(num_examples, num_classes)
        return labelled_text.spec_without_data(kind, location, options, num_examples, num_classes)
    if text_source.is_text(kind, options):
        return text_source.spec_without_data(kind, location, options, num_examples, num_classes)
    if few is not None:
        num_examples = few.size(num_examples, num_classes)
    request = Request(
        image_size=section.image_size,
        channels=section.channels,
        host_crops=section.host_crops.to_dict(),
    )
    canvas = request.canvas(*((facts.image_size, facts.channels) if facts else ()))
    return image_spec(canvas, num_examples, num_classes)


def steps_per_epoch(section: ConfigDict, batch_size: int) -> int:
    """Steps of an epoch of a config's data section, without touching the data.

    Raises:
      UserError: as `spec_from_config` and `Sampler.steps_per_epoch`.
    """
    sampler = sampler_from_config(section.sampler)
    return sampler.steps_per_epoch(spec_from_config(section).num_examples, batch_size)


def split_size(section: ConfigDict) -> int:
    """Examples of the split that a config's data section names, without touching the data.

    What `data.labelled_fraction` leaves out of it is counted; `spec_from_config` does not count it.

    Raises:
      UserError: an unknown data set or split, or one whose size has to be given.
    """
    kind_of(section.name)
    if section.num_examples is not None:
        return section.num_examples
    facts = facts_of(section.name, section.options.to_dict())
    if facts is None:
        raise UserError(
            f"{section.name} has to be read to know its size; set data.num_examples (and "
            "data.num_classes if it has labels)"
        )
    parts = subsplit.parse(
        section.split, tuple(facts.splits), facts.splits.__getitem__, facts.aliases
    )
    return sum(part.stop - part.start for part in parts)


def kind_of(name: str) -> tuple[str, str]:
    """(kind, location) of a data set's name.

    Raises:
      UserError: there is no such kind, or the name lacks what its kind needs.
    """
    kind, colon, location = name.partition(":")
    usage = [f"{kind}:{what}" if what else kind for kind, what in KINDS.items()]
    if kind not in KINDS or bool(colon) != bool(KINDS[kind]):
        raise UserError(
            f"unknown data set {name!r}; data sets: {', '.join(usage)}.{nearest(kind, KINDS)}"
        )
    if colon and not location:
        raise UserError(f"data set {name!r} names nothing; write {kind}:{KINDS[kind]}")
    return kind, location


def _open(name: str, options: dict[str, Any]) -> Any:
    """The data set: an object with `splits`, perhaps `aliases`, and `source(split)`."""
    kind, location = kind_of(name)
    common = {field.name for field in dataclasses.fields(Request)}
    request = Request(**{key: value for key, value in options.items() if key in common})
    own = {key: value for key, value in options.items() if key not in common}
    if labelled_text.is_task(kind, own):
        return labelled_text.dataset(kind, location, request, own)
    if text_source.is_text(kind, own):
        return text_source.dataset(kind, location, request, own)
    dataset = importlib.import_module(f"ssl_jax.data.kinds.{kind}").dataset
    check_options(kind, own, keyword_only(dataset), common)
    return dataset(location, request, **own)
