"""Opens a data set by its name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, closest
from ssl_jax.core.method import DataSpec
from ssl_jax.data import class_names, subsplit
from ssl_jax.data import classes as classes_lib
from ssl_jax.data import kinds as kinds_package
from ssl_jax.data.cache import in_memory
from ssl_jax.data.few_labels import FewLabels
from ssl_jax.data.kind import DataSet, Kind
from ssl_jax.data.request import Request
from ssl_jax.data.samplers.registry import from_config as sampler_from_config
from ssl_jax.data.source import Source

_COMMON = tuple(field.name for field in dataclasses.fields(Request))  # options of every kind


@functools.cache
def kinds() -> dict[str, Kind]:
    """The kinds of data sets by name: the modules of `ssl_jax.data.kinds`."""
    modules = pkgutil.iter_modules(kinds_package.__path__, f"{kinds_package.__name__}.")
    known = (importlib.import_module(module.name).KIND for module in modules)
    return {kind.name: kind for kind in known}


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    host_crops: Mapping[str, Any] | None = None,
    strict: bool = False,
    seed: int = 0,
    cache: bool = False,
    **options: Any,
) -> Source:
    """Opens a split of a data set.

    Args:
      name: "digits", "folder:PATH", "text:PATTERN" and so on; see `kinds`.
      split: a split or sub-split: "train[:80%]", "train[1000:]", "train+test", "all".
      image_size: side of the square canvas, pixels. Images are resized (bicubic) so that their
        central square fills it. Default: the size of the images, if they all have one size.
      channels: 1 (luminance) or 3; default: those of the data set.
      host_crops: random crops that the host cuts, by family; see `crops`.
      strict: whether an unreadable image is an error; else the next readable one replaces it.
      seed: of the generated data of `shapes`.
      cache: decode every image now and keep it in memory.
      **options: those of the kind of data set, such as `num_generated` of `shapes`; see
        `Kind.options`.

    Raises:
      UserError: an unknown data set, split or option, data that are not there, or a bad value.
    """
    request = Request(image_size, channels, host_crops or {}, strict=strict, seed=seed)
    opened = _open(name, request, options)
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
    """The splits of a data set; takes the options that `load` takes.

    Raises:
      UserError: as `load`.
    """
    common = {key: options.pop(key) for key in _COMMON if key in options}
    return tuple(_open(name, Request(**common), options).splits)


def from_config(section: ConfigDict, *, seed: int = 0) -> Source:
    """Opens the data set of a config's data section.

    It has the classes of `data.classes`, and the labels that it keeps (`few_labels`).

    Raises:
      UserError: as `load`, `classes.select`, `class_names.ordered` and `FewLabels.select`.
    """
    few = FewLabels.of(section)
    request = dataclasses.asdict(_request_of(section, seed))
    del request["center"]  # an option of images
    source = load(section.name, section.split, **request, **section.options.to_dict())
    if section.classes is not None:
        source = classes_lib.select(source, section.classes)
    if section.class_names is not None:
        source = class_names.ordered(source, section.class_names)
    return source if few is None else few.select(source)


def missing_splits(
    section: ConfigDict, requested: Sequence[str]
) -> tuple[list[list[str]], tuple[str, ...]]:
    """Which splits do not exist in the data set of a config's data section.

    Args:
      section: the data section.
      requested: splits and sub-splits.

    Returns:
      (for each requested one the names that are not splits, all splits). The data set is opened
      once; no example is read.

    Raises:
      UserError: as `load`, except for a split that does not exist.
    """
    opened = _open(section.name, _request_of(section, seed=0), section.options.to_dict())
    aliases = getattr(opened, "aliases", {})
    missing = [subsplit.missing(text, opened.splits, aliases) for text in requested]
    return missing, tuple(opened.splits)


def _request_of(section: ConfigDict, seed: int) -> Request:
    return Request(
        section.image_size,
        section.channels,
        section.host_crops.to_dict(),
        strict=section.strict,
        seed=seed,
    )


def spec_from_config(section: ConfigDict) -> DataSpec:
    """The DataSpec of a config's data section, without touching the data.

    With `data.classes` the data are opened to count, unless `num_examples` and `num_classes` are
    set, which then count the chosen classes only.

    `num_examples`, `num_classes`, `image_size` and `channels` of the section are used where they
    are set, and else the known facts of the data set.

    Raises:
      UserError: an unknown data set, split or option, or facts missing.
    """
    kind, location = kind_of(section.name)
    values = section.options.to_dict()
    _check_task(kind, values)
    num_examples, num_classes = split_size(section), section.num_classes
    facts = kind.facts(location, values)
    if section.classes is not None and num_classes is None:
        num_classes = _of_classes(section).num_classes
    if num_classes is None and facts is not None:
        num_classes = facts.num_classes
    few = FewLabels.of(section)
    if few is not None:
        num_examples = few.size(num_examples, num_classes)
    request = _request_of(section, seed=0)
    return kind.spec(location, request, values, num_examples, num_classes)


def steps_per_epoch(section: ConfigDict, batch_size: int) -> int:
    """Steps of an epoch of a config's data section, without touching the data.

    Raises:
      UserError: as `spec_from_config` and `Sampler.steps_per_epoch`.
    """
    sampler = sampler_from_config(section.sampler)
    return sampler.steps_per_epoch(spec_from_config(section).num_examples, batch_size)


def split_size(section: ConfigDict) -> int:
    """Number of examples in the split of a config's data section, without touching the data.

    It includes the examples that `data.labelled_fraction` leaves out; `spec_from_config` does not.

    Raises:
      UserError: an unknown data set or split, or one whose size is not known.
    """
    kind, location = kind_of(section.name)
    if section.num_examples is not None:
        return section.num_examples
    if section.classes is not None:
        return len(_of_classes(section))
    facts = kind.facts(location, section.options.to_dict())
    if facts is None:
        raise UserError(
            f"{section.name} has to be read to know its size; set data.num_examples (and "
            "data.num_classes if it has labels)"
        )
    parts = subsplit.parse(
        section.split, tuple(facts.splits), facts.splits.__getitem__, facts.aliases
    )
    return facts.examples_per_piece * sum(part.stop - part.start for part in parts)


def _of_classes(section: ConfigDict) -> Source:
    """The data set with the classes of `data.classes` and all labels, opened to count them."""
    counted = section.copy_and_resolve_references()
    with counted.unlocked():
        counted.labelled_fraction = None
    return from_config(counted)


def kind_of(name: str) -> tuple[Kind, str]:
    """(kind, location) of a data set's name.

    Raises:
      UserError: there is no such kind, or the name lacks what its kind needs.
    """
    word, colon, location = name.partition(":")
    kind = kinds().get(word)
    if kind is None and "/" in word:
        raise UserError(f"unknown data set {name!r}; a path has its kind in front, e.g. "
                        f"folder:{name} or text:{name}: `ssl_jax list data`")  # fmt: skip
    if kind is None:
        close = closest(word, kinds())
        usage = kinds()[close].usage if close else ""
        # A mistyped name keeps its location.
        meant = f"{close}:{location}" if close and location and ":" in usage else usage
        hint = f"did you mean {meant!r}? " if meant else ""
        raise UserError(f"unknown data set {name!r}; {hint}`ssl_jax list data` prints all")
    if bool(colon) != bool(kind.location):
        raise UserError(
            f"data set {name!r} is not complete; write {kind.usage}"
            if kind.location
            else f"data set {name!r} takes nothing behind it; write {kind.usage}"
        )
    if colon and not location:
        raise UserError(f"data set {name!r} names nothing; write {kind.usage}")
    return kind, location


def _open(name: str, request: Request, values: Mapping[str, Any]) -> DataSet:
    kind, location = kind_of(name)
    _check_task(kind, values)
    return kind.open(location, request, values)


def _check_task(kind: Kind, values: Mapping[str, Any]) -> None:
    """Raises UserError if a task is asked of a kind without labels for one."""
    if values.get("task") is not None and not kind.tasks:
        others = ", ".join(other.name for other in kinds().values() if other.tasks)
        raise UserError(
            f"data.options.task is {values['task']!r}, but {kind.name} has no labels to learn a "
            f"task from; kinds that have: {others}"
        )
