"""`tfds:NAME[/CONFIG][:VERSION]`: images, text or audio prepared by TensorFlow Datasets.

Reading at random needs a preparation in ArrayRecord files. Preparing most public sets needs
TensorFlow, once; reading does not. A data set is read as audio or as text if an option of these is
set, or if it has such a feature, audio before text, and no image. With the option `task` its
records are labelled examples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from ssl_jax.config import fields
from ssl_jax.core.method import DataSpec
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.audio.audio_source import AudioOptions
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import DataSet, Facts, Kind
from ssl_jax.data.request import Request
from ssl_jax.data.text.option_types import DataDir
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.data.tfds import audio, images, records, texts
from ssl_jax.data.tfds.facts import FACTS, SEVERAL_LABELS
from ssl_jax.modalities.audio import SPEAKER


def dataset(
    location: str,
    request: Request,
    *,
    data_dir: DataDir = None,
    image_key: Annotated[
        str | None, "Feature that is the image; None: the only one that can be."
    ] = None,
    label_key: Annotated[
        str | None, "Feature that is the label; None: the only one that can be, if any."
    ] = None,
) -> images.TfdsDataset:
    """The images of the data set `location`, e.g. "cifar10" or "imagenet2012_subset/1pct:5.0.0".

    Raises:
      UserError: there is no such data set, or its features do not say which is the image.
    """
    tfds, builder = records.open_builder(location, data_dir)
    return images.TfdsDataset(tfds, location, builder, request, image_key, label_key)


def recordings(
    location: str,
    request: Request,
    read: AudioOptions,
    *,
    data_dir: DataDir = None,
    audio_key: Annotated[
        str | None, "Feature that is the audio; None: the only one that can be."
    ] = None,
    label_key: Annotated[
        str | None, "Feature that is the label; None: the only class, if any, else the speaker."
    ] = None,
    speaker_key: Annotated[
        str | None, "Feature that is the speaker; None: `speaker_id` or `speaker`, if there."
    ] = None,
) -> audio.TfdsAudio:
    """The recordings of the data set `location`, e.g. "librispeech".

    Raises:
      UserError: there is no such data set, or its features do not say which is the audio.
    """
    tfds, builder = records.open_builder(location, data_dir)
    return audio.TfdsAudio(
        tfds, location, builder, read, audio_key=audio_key, label_key=label_key,
        speaker_key=speaker_key, strict=request.strict,
    )  # fmt: skip


_LOCATION = "NAME"


def _num_labels(name: str) -> int:
    return SEVERAL_LABELS[name][2] if name in SEVERAL_LABELS else 0


IMAGES = ImageKind(
    name="tfds",
    location=_LOCATION,
    dataset=dataset,
    known=lambda location, options: FACTS.get(location.partition(":")[0]),  # without the version
    num_labels=lambda location, options: _num_labels(re.split("[/:]", location)[0]),
)
TEXTS = TextKind(
    name="tfds",
    location=_LOCATION,
    corpus=texts.corpus,
    examples=texts.examples,
    example_tasks=("classify", "regress"),
)
AUDIO = AudioKind(
    name="tfds", location=_LOCATION, dataset=recordings, targets=lambda options: (SPEAKER,)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsKind(Kind):
    """Images, text or audio, by the options, or where they fit all by the data set's features."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return (*IMAGES.modalities, *TEXTS.modalities, *AUDIO.modalities)

    @property
    def tasks(self) -> tuple[str, ...]:
        return TEXTS.tasks

    def _of_options(self, values: Mapping[str, Any]) -> ImageKind | TextKind | AudioKind:
        of_images = IMAGES.options(values).keys
        for kind in (AUDIO, TEXTS):
            own = kind.options(values).keys
            if any(key in own and key not in of_images for key in values):
                return kind
        return IMAGES

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        return self._of_options(values).options(values)

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        kind = self._of_options(values)
        if kind is IMAGES and "image_key" not in values:
            tfds, builder = records.open_builder(location, values.get("data_dir"))
            features = {type(feature) for feature in builder.info.features.values()}
            if tfds.features.Image not in features:
                if tfds.features.Audio in features:
                    kind = AUDIO
                elif tfds.features.Text in features:
                    kind = TEXTS
        return kind.open(location, request, values)

    @property
    def corpus(self) -> Callable[..., Any]:
        return TEXTS.corpus

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        return self._of_options(values).facts(location, values)

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        kind = self._of_options(values)
        return kind.spec(location, request, values, num_examples, num_classes)


KIND = TfdsKind(name="tfds", location=_LOCATION)
