"""Names of view families, shared by the host and the device.

A family is a group of views of one size, such as the 2 "global" and 8 "local" crops of multi-crop
training. If the host makes the crops of a family, a batch has them under `array_name(family)`.
"""

from __future__ import annotations

from collections.abc import Iterable

MAIN = "global"  # the family of methods that have one size of views
_PREFIX = "image/"


def array_name(family: str) -> str:
    """The array of a batch that holds the host crops of a family: "image/global"."""
    return _PREFIX + family


def host_families(arrays: Iterable[str]) -> list[str]:
    """The families whose crops are among arrays with these names."""
    return [name.removeprefix(_PREFIX) for name in arrays if name.startswith(_PREFIX)]
