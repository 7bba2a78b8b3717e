"""Files by pattern: shell wildcards, {a,b} and {000..010}, and {split} for the split's name.

The names at the beginning of a pattern, or all of them, are taken literally if such a path exists:
`/data/we [1]/*.csv` are files in the folder `we [1]`. Elsewhere a wildcard in brackets stands for
itself: `we [[]1].csv`, `what[?].csv`.
"""

from __future__ import annotations

import glob
import os
import re

from ssl_jax.core.errors import UserError

SPLIT = "{split}"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def local(kind: str, location: str) -> str:
    """The pattern `location` with its `~` expanded.

    Raises:
      UserError: it is in a bucket, or a folder.
    """
    if "://" in location:
        raise UserError(f"{kind}:{location} is not a local path; mount the bucket (gcsfuse)")
    pattern = os.path.expanduser(location)
    if os.path.isdir(pattern):
        raise UserError(
            f"{kind}:{location} is a folder; name its files, e.g. "
            f"{kind}:{os.path.join(location, '*')}"
        )
    return pattern


def splits(kind: str, pattern: str) -> tuple[str, ...]:
    """The splits of files by pattern: what `{split}` stands for; without it they are all `train`.

    `train` comes first, the others sorted.

    Raises:
      UserError: no file matches.
    """
    if SPLIT not in pattern:
        return ("train",)
    names = set()
    folder, inside = _literal_part(pattern)
    for one in expand_braces(inside):
        first, *others = map(_expression, one.split(SPLIT))
        named = re.compile(re.escape(folder) + first + r"([\w-]+?)" + r"\1".join(others))
        paths = glob.glob(glob.escape(folder) + one.replace(SPLIT, "*"), recursive=True)
        matches = map(named.fullmatch, paths)
        names |= {match[1] for match in matches if match}
    if not names:
        raise UserError(f"no file matches {kind}:{pattern}")
    return tuple(sorted(names, key=lambda split: (split != "train", split)))


def files(kind: str, pattern: str, split: str) -> list[str]:
    """The files of a split: in the order of the braces, then sorted.

    Raises:
      UserError: no file matches.
    """
    folder, inside = _literal_part(pattern.replace(SPLIT, split))
    paths = [
        path
        for one in expand_braces(inside)
        for path in sorted(glob.glob(glob.escape(folder) + one, recursive=True))
        if os.path.isfile(path)
    ]
    if not paths:
        raise UserError(f"no file matches {kind}:{pattern}")
    return paths


def _literal_part(pattern: str) -> tuple[str, str]:
    """The longest beginning of a pattern that exists as it stands, of whole names, and the end."""
    names = pattern.split("/")
    for count in range(len(names), 0, -1):
        beginning = "/".join(names[:count])
        if beginning and os.path.exists(beginning):
            return beginning, pattern[len(beginning) :]
    return "", pattern


_WILDCARD = re.compile(r"(\*\*/)|(\*)|(\?)|\[(!?)(\]?[^\]]*)\]|(.)", re.DOTALL)


def _expression(pattern: str) -> str:
    """A pattern as a regular expression."""

    def translate(match: re.Match[str]) -> str:
        folders, star, mark, negated, characters, literal = match.groups()
        if folders:
            return "(?:.*/)?"
        if star or mark:
            return "[^/]*" if star else "[^/]"
        if literal:
            return re.escape(literal)
        escaped = characters.replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
        return f"[{'^' if negated else ''}{escaped}]"

    return _WILDCARD.sub(translate, pattern)


def expand_braces(pattern: str) -> list[str]:
    """`{a,b}` and `{08..10}` (zero-padded as written), as a shell would; other braces stay."""
    for match in _BRACES.finditer(pattern):
        numbers = _RANGE.fullmatch(match[1])
        if numbers:
            first, last = numbers.groups()
            choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        elif "," in match[1]:
            choices = match[1].split(",")
        else:
            continue
        head, tail = pattern[: match.start()], pattern[match.end() :]
        return [expanded for choice in choices for expanded in expand_braces(head + choice + tail)]
    return [pattern]
