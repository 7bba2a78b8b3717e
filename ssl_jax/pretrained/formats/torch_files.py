"""Writes PyTorch's files (torch.save) without PyTorch.

A file is a zip archive of `data.pkl`, a pickle of the tree with a reference in place of each
storage, and of one member per storage with its bytes (format of PyTorch 1.6 and newer,
torch/serialization.py). `torch.load` reads it, with `weights_only=True` too, and so does
`files.read_networks`.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

_ROOT = "checkpoint"  # of the archive's members


def write(path: str, tree: Mapping[str, Any]) -> None:
    """Writes a tree of dicts.

    Args:
      path: the file.
      tree: dicts with strings as keys; its leaves are float32 arrays, which become tensors on the
        CPU, and ints.

    Raises:
      TypeError: a leaf is something else.
    """
    storages: list[np.ndarray] = []
    content = _pickled(tree, storages)
    unfinished = f"{path}.tmp"
    # Stored without compression, as PyTorch needs.
    with zipfile.ZipFile(unfinished, "w") as archive:
        archive.writestr(f"{_ROOT}/data.pkl", content)
        archive.writestr(f"{_ROOT}/byteorder", "little")
        for number, array in enumerate(storages):
            archive.writestr(f"{_ROOT}/data/{number}", array.astype("<f4", copy=False).tobytes())
        archive.writestr(f"{_ROOT}/version", "3\n")
    os.replace(unfinished, path)


def _pickled(tree: Mapping[str, Any], storages: list[np.ndarray]) -> bytes:
    """The pickle of a tree; its arrays are appended to `storages`, by whose index it names them."""
    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02")
    _put(out, tree, storages)
    out.write(pickle.STOP)
    return out.getvalue()


def _put(out: io.BytesIO, value: Any, storages: list[np.ndarray]) -> None:
    if isinstance(value, Mapping):
        out.write(pickle.EMPTY_DICT + pickle.MARK)
        for key, member in value.items():
            out.write(_plain(key))
            _put(out, member, storages)
        out.write(pickle.SETITEMS)
    elif isinstance(value, np.ndarray) and value.dtype == np.float32:
        out.write(_tensor(np.ascontiguousarray(value).reshape(value.shape), len(storages)))
        storages.append(value)
    elif isinstance(value, int):
        out.write(_plain(value))
    else:
        raise TypeError(f"a {type(value).__name__} cannot be written, only float32 arrays and ints")


def _tensor(array: np.ndarray, number: int) -> bytes:
    """_rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, no hooks)."""
    storage = (
        pickle.MARK + _plain("storage") + _global("torch", "FloatStorage") + _plain(str(number))
        + _plain("cpu") + _plain(array.size) + pickle.TUPLE + pickle.BINPERSID
    )  # fmt: skip
    strides = tuple(stride // array.itemsize for stride in array.strides)
    no_hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    return (
        _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + storage + _plain(0)
        + _plain(array.shape) + _plain(strides) + pickle.NEWFALSE + no_hooks + pickle.TUPLE
        + pickle.REDUCE
    )  # fmt: skip


def _plain(value: Any) -> bytes:
    """The instructions for a string, an int, or a tuple of ints."""
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
