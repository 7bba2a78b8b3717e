"""`folder:PATH`: images or recordings in nested folders, with class folders or without.

How folders divide into splits and classes is described in `ssl_jax.data.folders`. The files are
recordings if an option of audio is set, such as `window`, or if there are recordings and no images.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from ssl_jax.data import folders as folders_lib
from ssl_jax.data.audio import files as audio_files
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.audio.audio_source import AudioOptions, AudioSource, chosen_targets
from ssl_jax.data.audio.file_recordings import FileRecordings
from ssl_jax.data.image import EXTENSIONS, Canvas
from ssl_jax.data.image_files import FileSource
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.image_or_audio_kind import ImageOrAudioKind
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request
from ssl_jax.modalities.audio import SPEAKER


def dataset(location: str, request: Request) -> Folder:
    """The images below the folder `location`.

    Raises:
      UserError: no such folder, it is in a bucket, or nothing to read is in it.
    """
    layout = folders_lib.Layout(location, EXTENSIONS, "images")
    return Folder(layout, request.canvas(), request.strict)


class Folder:
    """Image files; `splits` names what they divide into."""

    def __init__(self, layout: folders_lib.Layout, canvas: Canvas, strict: bool):
        self._layout, self._canvas, self._strict = layout, canvas, strict
        self.splits, self.aliases = layout.splits, layout.aliases

    def source(self, split: str) -> FileSource:
        """Lists the files of a split.

        Raises:
          UserError: there are none.
        """
        files, classes = self._layout.files(split), self._layout.classes
        labelled = bool((files.labels >= 0).any())
        return FileSource(
            name=f"folder:{self._layout.root}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            root=files.top,
            names=Names(files.paths),
            labels=files.labels if labelled else None,
            num_classes=len(classes) if labelled else None,
            class_names=classes if labelled else None,
        )


def audio_dataset(
    location: str,
    request: Request,
    read: AudioOptions,
    *,
    folders: Annotated[
        Literal["classes", "speakers"], "What the topmost folders of recordings are."
    ] = "classes",
) -> AudioFolder:
    """The recordings below the folder `location`.

    Raises:
      UserError: no such folder, it is in a bucket, or nothing to read is in it.
    """
    layout = folders_lib.Layout(location, audio_files.EXTENSIONS, "recordings")
    return AudioFolder(layout, read, folders, request.strict)


class AudioFolder:
    """Audio files; `splits` names what they divide into."""

    def __init__(self, layout: folders_lib.Layout, read: AudioOptions, folders: str, strict: bool):
        self._layout, self._read, self._folders = layout, read, folders
        self._strict = strict
        self.splits, self.aliases = layout.splits, layout.aliases

    def source(self, split: str) -> AudioSource:
        """Reads the headers of the files of a split.

        Raises:
          UserError: there are none that can be read.
        """
        files, classes = self._layout.files(split), self._layout.classes
        labels = files.labels if (files.labels >= 0).any() else None
        speakers = labels if self._folders == "speakers" else None
        name = f"folder:{self._layout.root}"
        recordings, problems = FileRecordings.scan(
            name, files.top, files.paths, labels, speakers,
            rate=self._read.sample_rate, strict=self._strict,
        )  # fmt: skip
        return AudioSource(
            name=f"{name}[{split}]",
            recordings=recordings,
            options=self._read,
            targets=chosen_targets({SPEAKER: speakers}, self._read, name),
            strict=self._strict,
            num_classes=None if labels is None else len(classes),
            class_names=None if labels is None else classes,
            problems=problems,
        )


_LOCATION = "PATH"
IMAGES = ImageKind(name="folder", location=_LOCATION, dataset=dataset)
RECORDINGS = AudioKind(
    name="folder",
    location=_LOCATION,
    dataset=audio_dataset,
    targets=lambda options: (SPEAKER,) if options["folders"] == "speakers" else (),
)


def _has_recordings(location: str) -> bool:
    """Whether there are recordings and no images below a folder."""
    root = os.path.expanduser(location)
    if "://" in location or not os.path.isdir(root) or folders_lib.has_file(root, EXTENSIONS):
        return False
    return folders_lib.has_file(root, audio_files.EXTENSIONS)


KIND = ImageOrAudioKind(
    name="folder",
    location=_LOCATION,
    images=IMAGES,
    recordings=RECORDINGS,
    has_recordings=_has_recordings,
)
