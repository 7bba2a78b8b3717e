"""The audio input of an encoder: waveforms in [-1, 1); there is no augmentation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import modalities
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.method import Array, Batch, DataSpec
from ssl_jax.modalities.audio import AUDIO
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.conv_gru import ConvGru, num_frames


@dataclasses.dataclass(frozen=True)
class OneRecording:
    """The waveforms of a batch, with the same interface as `OneView` for images."""

    def train(self, keys: Array, batch: Batch) -> Array:
        """The samples, float32 [n s]."""
        del keys
        return self.evaluate(batch)

    def evaluate(self, batch: Batch) -> Array:
        """The same array as `train`."""
        return AUDIO.waveform(batch)

    def show(self, keys: Array, batch: Batch) -> dict[str, Item]:
        """Returns {}: recordings are not augmented."""
        del keys, batch
        return {}


def make_one_recording(config: Any, spec: DataSpec) -> tuple[OneRecording, Net, Any]:
    """Makes an encoder for the windows of a data set, and its input.

    Returns:
      (view, encoder, inputs): `inputs` is the shape of the encoder's input for one window.

    Raises:
      UserError: the data are not audio, the model does not read audio, or a window is too short.
    """
    modalities.require(config, spec, AUDIO.name)
    encoder = make_encoder(**config.model, dtype=config.dtype)
    module = encoder.module
    if not isinstance(module, ConvGru):
        raise UserError(f"model {config.model.name!r} does not read audio; use model.name=conv_gru")
    samples = spec.arrays["audio"].shape[0]
    if frames_of(spec, module) < 1:
        raise UserError(
            f"windows of data.options.window={samples} samples are too short for the encoder, "
            "whose kernels and strides leave no frame; use longer windows"
        )
    return OneRecording(), encoder, jax.ShapeDtypeStruct((1, samples), jnp.float32)


def frames_of(spec: DataSpec, module: ConvGru) -> int:
    """Frames of a window by an encoder."""
    samples = spec.arrays["audio"].shape[0]
    return num_frames(samples, module.kernels, module.strides, module.padded)
