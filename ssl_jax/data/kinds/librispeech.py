"""`librispeech:DIR`: LibriSpeech (Panayotov et al. 2015) as published.

    DIR/train-clean-100/SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac

The folders of DIR are splits: "train-clean-100", "dev-clean" and so on. "train" and "test" are the
two parts of train-clean-100 that CPC is evaluated on, which have the same speakers. Beside the
folders may lie the files that the authors of CPC published:

    train_split.txt, test_split.txt     one utterance a line; without them a fifth of the
                                        utterances, chosen by a hash of their names, is "test"
    converted_aligned_phones.txt        or .zip; lines `UTTERANCE 12 12 7 ...`, one phone for every
                                        160 samples; without it there are no phones

The label of an example is its speaker. Speakers are numbered by the order of their numbers in
train-clean-100 or, for other splits, in that split.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Iterator

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.audio.audio_source import AudioOptions, AudioSource, chosen_targets
from ssl_jax.data.audio.file_recordings import FileRecordings
from ssl_jax.data.folders import folder_at, hashed_files
from ssl_jax.data.request import Request
from ssl_jax.modalities.audio import PHONE, SPEAKER

MAIN = "train-clean-100"
_HELD_OUT = 5  # without lists of utterances, one in so many is in `test`
_ALIGNMENTS = ("converted_aligned_phones.txt", "converted_aligned_phones.zip")
_PHONE_FRAME, _PHONE_RATE = 160, 16_000
_NO_PHONE = 255


def dataset(location: str, request: Request, read: AudioOptions) -> LibriSpeech:
    """The data set in the folder `location`.

    Raises:
      UserError: no such folder, or it holds no folder of speakers.
    """
    return LibriSpeech(folder_at("librispeech", location), read, request.strict)


class LibriSpeech:
    """The folders of a copy of LibriSpeech."""

    def __init__(self, root: str, read: AudioOptions, strict: bool):
        self._root, self._read, self._strict = root, read, strict
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        folders = tuple(name for name in names if name.startswith(("train-", "dev-", "test-")))
        if not folders:
            raise UserError(
                f"librispeech:{root} has no folder such as {MAIN}; name the folder that holds it"
            )
        self.splits = (("train", "test") if MAIN in folders else ()) + folders

    def source(self, split: str) -> AudioSource:
        """Reads the headers of the files of a split.

        Raises:
          UserError: there are none, a path is not SPEAKER/CHAPTER/UTTERANCE, or an utterance of a
            list is not there.
        """
        folder = MAIN if split in ("train", "test") else split
        top = os.path.join(self._root, folder)
        paths = [path for _, path in hashed_files(top, (".flac",))]
        if not paths:
            raise UserError(f"librispeech:{self._root} has no .flac files below {folder}")
        for path in paths:
            if not _is_utterance(path):
                raise UserError(
                    f"{os.path.join(top, path)} is not named as in LibriSpeech, "
                    "SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac"
                )
        names = class_names.in_order({path.partition("/")[0] for path in paths})
        if split != folder:
            paths = self._part(split, paths)
        number_of = {name: number for number, name in enumerate(names)}
        speakers = np.array([number_of[path.partition("/")[0]] for path in paths], np.int32)
        files, problems = FileRecordings.scan(
            f"librispeech:{self._root}", top, paths, speakers, speakers,
            rate=self._read.sample_rate, strict=self._strict,
        )  # fmt: skip
        alignments = self._alignments(set(map(_utterance, paths)))
        fields = {field.name: getattr(files, field.name) for field in dataclasses.fields(files)}
        return AudioSource(
            name=f"librispeech:{self._root}[{split}]",
            recordings=Aligned(**fields, alignments=alignments),
            options=self._read,
            targets=chosen_targets(
                {PHONE: alignments, SPEAKER: speakers}, self._read, f"librispeech:{self._root}"
            ),
            strict=self._strict,
            num_classes=len(names),
            class_names=names,
            problems=problems,
        )

    def _part(self, split: str, paths: list[str]) -> list[str]:
        """The paths of "train" or "test"."""
        listed = os.path.join(self._root, f"{split}_split.txt")
        if not os.path.exists(listed):
            held_out = split == "test"
            return [
                path
                for number, path in enumerate(paths)  # in the order of their hashes
                if (number % _HELD_OUT == 0) == held_out
            ]
        with open(listed, encoding="utf-8") as file:
            wanted = {line.strip() for line in file if line.strip()}
        kept = [path for path in paths if _utterance(path) in wanted]
        missing = wanted.difference(map(_utterance, kept))
        if missing:
            raise UserError(
                f"{listed} names {len(missing):,} utterances that are not below {MAIN}, such as "
                f"{min(missing)}"
            )
        return kept

    def _alignments(self, utterances: set[str]) -> dict[str, np.ndarray] | None:
        """The phones of utterances, uint8 each; None where there is no file or no such utterance.

        Raises:
          UserError: the file is broken, or frames are not those of the phones.
        """
        path = next(
            (
                os.path.join(self._root, name)
                for name in _ALIGNMENTS
                if os.path.exists(os.path.join(self._root, name))
            ),
            None,
        )
        if path is None or (self._read.targets is not None and PHONE not in self._read.targets):
            return None
        if (self._read.frame, self._read.sample_rate) != (_PHONE_FRAME, _PHONE_RATE):
            raise UserError(
                f"{path} has a phone for every {_PHONE_FRAME} samples at {_PHONE_RATE} Hz, but "
                f"data.options.frame is {self._read.frame} and sample_rate "
                f"{self._read.sample_rate}; leave both unset, or set "
                "data.options.targets=('speaker',)"
            )
        found = _read_alignments(path)
        return found if utterances.intersection(found) else None


@dataclasses.dataclass(frozen=True)
class Aligned(FileRecordings):
    """Utterances with their phones by name, if there are any."""

    alignments: dict[str, np.ndarray] | None

    def phones(self, number: int) -> np.ndarray | None:
        found = (self.alignments or {}).get(_utterance(self.paths[number]))
        return None if found is None else found.astype(np.int32)


@functools.lru_cache(maxsize=2)
def _read_alignments(path: str) -> dict[str, np.ndarray]:
    """The phones of each utterance, uint8 [frames]."""
    phones: dict[str, np.ndarray] = {}
    for number, line in enumerate(_lines(path), start=1):
        utterance, *numbers = line.split()
        try:
            values = np.array(numbers, np.int64)
            if values.size and not 0 <= values.min() <= values.max() < _NO_PHONE:
                raise ValueError(f"a phone of {values.max()}")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a name and numbers ({error})") from None
        phones[utterance] = values.astype(np.uint8)
    return phones


def _lines(path: str) -> Iterator[str]:
    """The lines of a text file, or of the text file in an archive, without empty ones."""
    if not path.endswith(".zip"):
        with open(path, encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
        return
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".txt"))
            with io.TextIOWrapper(archive.open(member), encoding="utf-8") as file:
                yield from (line for line in file if line.strip())
    except (zipfile.BadZipFile, StopIteration):
        raise UserError(f"{path} is no archive with a text file") from None


def _utterance(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0]


def _is_utterance(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and _utterance(path).split("-")[:2] == parts[:2]


KIND = AudioKind(
    name="librispeech", location="DIR", dataset=dataset, targets=lambda options: (PHONE, SPEAKER)
)
