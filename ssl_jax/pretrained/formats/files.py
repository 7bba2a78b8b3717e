"""Reads and writes weight files: safetensors, and PyTorch's format without executing its code."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ssl_jax.core.errors import UserError

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Keys under which training scripts store the weights; the first that a file has is preferred.
_STATE_KEYS = (
    "state_dict", "model_state_dict", "model", "teacher", "student", "network", "target_encoder",
    "encoder",
)  # fmt: skip


def write_safetensors(path: str, arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Writes arrays to a safetensors file, atomically.

    Args:
      path: the file.
      arrays: name -> array.
      metadata: texts for the metadata of the file.

    Raises:
      UserError: the file cannot be written, such as on a full disk.
    """
    path = os.path.realpath(path)  # a link stays one
    unfinished = f"{path}.tmp"
    try:
        save_file(dict(arrays), unfinished, metadata={"format": "pt", **metadata})
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(unfinished, 0o666 & ~mask)  # save_file makes it readable for the owner only
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise UserError(f"{path} cannot be written: {error}") from error


def write_pretrained(
    folder: str, arrays: Mapping[str, np.ndarray], files: Mapping[str, str]
) -> int:
    """Writes a folder for `from_pretrained` of transformers, which is created if missing.

    Args:
      folder: the folder.
      arrays: name -> array, the weights.
      files: name -> content of the other files, such as config.json.

    Returns:
      The number of arrays.
    """
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), arrays)
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return len(arrays)


def read(path: str) -> dict[str, np.ndarray]:
    """Reads the weights in a safetensors file or a PyTorch file, see `read_networks`.

    Returns:
      name -> array, of the first network if there are several.
    """
    return next(iter(read_networks(path).values()))


def read_networks(path: str) -> dict[str, dict[str, np.ndarray]]:
    """Reads all networks in a safetensors file or a PyTorch file.

    A PyTorch file is a pickle, which can execute code when it is loaded. This function executes
    none: it rebuilds tensors from their bytes and skips all other objects.

    Returns:
      key -> {name: array}. A training script stores several state dicts under keys, such as
      "teacher", "student" and "dino_loss"; the preferred encoder is the first. The key is "" if
      there are no keys.

    Raises:
      UserError: the file does not exist, has another format, is damaged, or has no weights.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}")
    if zipfile.is_zipfile(path):
        return _networks(_read_torch(path), path)
    try:
        _check_dtypes(path)
        return {"": load_file(path)}
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is neither a safetensors file nor a PyTorch file of version 1.6 or newer "
            f"({error}); convert an older file with torch.save(torch.load(...), ...)"
        ) from error


_FLOAT8 = "F8_"  # prefix of safetensors' 8-bit floats, which need scales


def _check_dtypes(path: str) -> None:
    """Raises UserError for a file of quantised arrays."""
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            dtype = file.get_slice(name).get_dtype()
            if dtype.startswith(_FLOAT8):
                raise UserError(
                    f"{path}: {name} has dtype {dtype}, which cannot be read; convert the file to "
                    "float16, bfloat16 or float32"
                )


def _networks(tree: Any, path: str) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts in the content of a PyTorch file by their keys, the preferred one first."""
    for _ in range(3):
        if not isinstance(tree, Mapping):
            break
        members = {str(k): _arrays(v) for k, v in tree.items() if isinstance(v, Mapping)}
        preferred = next((key for key in _STATE_KEYS if key in members), None)
        # A nested state dict has priority over tensors beside it, such as an accuracy.
        if preferred is None:
            if arrays := _arrays(tree):
                return {"": arrays}
            break
        if members[preferred]:
            members = {preferred: members[preferred], **members}
            return {key: arrays for key, arrays in members.items() if arrays}
        tree = tree[preferred]
    raise UserError(
        f"{path} holds no state dict, neither at the top nor under {', '.join(_STATE_KEYS)}"
    )


def _arrays(tree: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    return {str(k): v for k, v in tree.items() if isinstance(v, np.ndarray)}


class _Skipped:
    """Replaces an object of an unneeded class; ignores everything that unpickling does with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Skipped:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Skipped:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file, encoding="utf-8")
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        return _Skipped

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype is _Skipped:
            return _Skipped()
        raw = self._archive.read(f"{self._root}/data/{key}")
        return np.frombuffer(raw, np.dtype(dtype), count=int(count))


def _tensor(storage: Any, offset: int, shape: tuple, stride: tuple, *unused: Any) -> Any:
    if not isinstance(storage, np.ndarray):
        return _Skipped()
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if min((0, offset, *shape, *stride)) < 0 or (math.prod(shape) and last >= len(storage)):
        raise UserError(f"a tensor of shape {tuple(shape)} reaches beyond its storage")
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(data: Any, *unused: Any) -> Any:
    return data


_MAX_RATIO = 20  # weights hardly compress, and torch.save does not compress
_ALWAYS_ALLOWED = 2**20  # bytes


def _check_unpacked_size(path: str, archive: zipfile.ZipFile) -> None:
    """Raises UserError for an archive that is much larger when unpacked, unlike weights."""
    size, unpacked = os.path.getsize(path), sum(info.file_size for info in archive.infolist())
    if unpacked > max(_MAX_RATIO * size, _ALWAYS_ALLOWED):
        raise UserError(
            f"{path} has {size:,} bytes and would unpack to {unpacked:,}: it is not a weights file"
        )


def _read_torch(path: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_unpacked_size(path, archive)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if not pickles:
                raise UserError(f"{path} is a zip file but not a PyTorch file: it has no data.pkl")
            root = pickles[0].removesuffix("/data.pkl")
            return _Unpickler(io.BytesIO(archive.read(pickles[0])), archive, root).load()
    except UserError as error:
        raise UserError(f"{path}: {error}" if path not in str(error) else str(error)) from error
    except Exception as error:  # a damaged file can raise any error
        raise UserError(f"{path} cannot be read as a PyTorch file: {error}") from error
