"""The modality of audio, as windows of waveforms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.method import Array, Batch, DataSpec, Method
from ssl_jax.modalities.base import Modality

FULL_SCALE = 32_768  # of int16
PHONE, SPEAKER = "phone", "speaker"
FRAME_TARGETS = (PHONE, SPEAKER)


@dataclasses.dataclass(frozen=True)
class Audio(Modality):
    """Windows of one channel, all of one length and sample rate."""

    def spec(
        self,
        samples: int,
        frames: int,
        targets: Sequence[str],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        """The DataSpec of audio.

        Args:
          samples: in a window.
          frames: of a window that have labels.
          targets: the labels of frames that there are, out of `FRAME_TARGETS`.
          num_examples, num_classes: of the training set.
        """
        arrays = {
            "audio": jax.ShapeDtypeStruct((samples,), np.int16),
            **{name: jax.ShapeDtypeStruct((frames,), np.int32) for name in targets},
            "label": jax.ShapeDtypeStruct((), np.int32),
            "index": jax.ShapeDtypeStruct((), np.int32),
        }
        return DataSpec(arrays, num_examples, num_classes, modality=self.name)

    def units(self, spec: DataSpec) -> int:
        del spec
        return 1

    def waveform(self, batch: Batch) -> Array:
        """The samples of a batch in [-1, 1), float32 [n s]."""
        return batch["audio"].astype(jnp.float32) / FULL_SCALE

    def facts(self, spec: DataSpec) -> dict[str, Any]:
        targets = tuple(name for name in FRAME_TARGETS if name in spec.arrays)
        return {"options": {"targets": targets}}

    def describe_inputs(self, method: Method, spec: DataSpec) -> dict[str, Any]:
        del method
        samples = spec.arrays["audio"].shape[0]
        return {"samples": samples, "input": "one channel, values in [-1, 1)"}

    def evaluation_options(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluation reads all windows of a recording, one after the other."""
        del evaluation
        return {"windows": "consecutive"}


AUDIO = Audio(
    name="audio",
    unit="windows",
    short_unit="windows",
    batch={
        "audio": "int16 [n s], the samples of a window of one channel",
        "phone": "int32 [n t], the phone of each frame; -1: none",
        "speaker": "int32 [n t], the speaker of each frame; -1 where the recording has ended",
    },
    kept=("window", "sample_rate", "frame"),
)
