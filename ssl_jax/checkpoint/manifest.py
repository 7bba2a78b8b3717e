"""The manifest of a checkpoint: shape, dtype and digest of each array, and the metrics."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from ssl_jax.checkpoint.arrays import reason, some
from ssl_jax.checkpoint.errors import DamagedCheckpointError

ITEM = "manifest"
FILENAME = "manifest.json"


class Entry(NamedTuple):
    """One array: dtype by name, shape, and digest as 16 hexadecimal digits."""

    dtype: str
    shape: tuple[int, ...]
    digest: str = ""

    @classmethod
    def of(cls, array: Any, digest: str = "") -> Entry:
        return cls(jnp.dtype(array.dtype).name, tuple(array.shape), digest)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The step, arrays by their '/'-joined path in the state, and metrics by name."""

    step: int
    arrays: Mapping[str, Entry]
    metrics: Mapping[str, float]

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits, equal for equal arrays."""
        return f"{_crc32({name: list(entry) for name, entry in self.arrays.items()}):08x}"

    def to_json(self) -> dict[str, Any]:
        content = {
            "step": self.step,
            "arrays": {
                name: [entry.dtype, list(entry.shape), entry.digest]
                for name, entry in self.arrays.items()
            },
            "metrics": dict(self.metrics),
        }
        return {**content, "crc32": _crc32(content)}

    @classmethod
    def read(cls, step_directory: epath.Path) -> Manifest:
        """Raises `DamagedCheckpointError` if the file is missing, unreadable or altered."""
        try:
            content = json.loads((step_directory / ITEM / FILENAME).read_text())
            if content.pop("crc32") != _crc32(content):
                raise ValueError("its checksum does not match")
            arrays = {
                name: Entry(dtype, tuple(shape), digest)
                for name, (dtype, shape, digest) in content["arrays"].items()
            }
            if content["step"] != int(step_directory.name):
                raise ValueError(f"it is that of step {content['step']}")
            return cls(content["step"], arrays, content["metrics"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(
                f"checkpoint {step_directory}: cannot read {FILENAME} ({reason(error)})"
            ) from error

    def differences(self, expected: Mapping[str, Any]) -> str:
        """How the saved arrays differ in name, shape and dtype from `expected`; "" if equal."""
        differences = []
        if missing := [name for name in expected if name not in self.arrays]:
            differences.append(f"it lacks {some(missing)}")
        if extra := [name for name in self.arrays if name not in expected]:
            differences.append(f"it also has {some(extra)}")
        changed = [
            f"{name} is {self.arrays[name]} there and {Entry.of(leaf)} here"
            for name, leaf in expected.items()
            if name in self.arrays and self.arrays[name][:2] != Entry.of(leaf)[:2]
        ]
        if changed:
            differences.append(some(changed))
        return "; ".join(differences)


def finite_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics as Python floats, without NaN and infinity, which JSON cannot represent."""
    floats = {name: float(np.asarray(value)) for name, value in (metrics or {}).items()}
    return {name: value for name, value in floats.items() if math.isfinite(value)}


def _crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
