"""Recordings in folders and archives: `folder:`, `librispeech:` and `tar:`."""

import tarfile
import zipfile

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from tests.data.audio.recorded import tone, write

WINDOW = dict(window=1_600)


def voices(root, count=6):
    for speaker, pitch in (("anna", 220.0), ("ben", 110.0)):
        for number in range(count):
            write(root / speaker / f"{number}.flac", tone(0.25, pitch=pitch))
    return root


def test_folders_of_speakers(tmp_path):
    name = f"folder:{voices(tmp_path)}"
    train, test = (data.load(name, split, folders="speakers", **WINDOW) for split in
                   ("train", "test"))  # fmt: skip
    assert train.class_names == ("anna", "ben") and train.num_classes == 2
    assert train.extent + test.extent == 12 and len(train) == 3 * train.extent
    batch = train.batch(np.arange(len(train)))
    np.testing.assert_array_equal(batch["speaker"], np.repeat(batch["label"][:, None], 10, 1))
    assert train.spec.arrays.keys() == {"audio", "speaker", "label", "index"}
    # Without an option of audio it is told from the files, and classes are no speakers.
    assert data.load(name).spec.arrays.keys() == {"audio", "label", "index"}


def test_files_of_any_rate_and_width_are_read_as_one(tmp_path):
    write(tmp_path / "a.wav", np.stack([tone(0.3, 8_000)] * 2, axis=1), 8_000, subtype="PCM_24")
    write(tmp_path / "b" / "c.ogg", tone(0.3, 48_000), 48_000)
    write(tmp_path / "B.FLAC".lower(), tone(0.05))
    source = data.load(f"folder:{tmp_path}", windows="consecutive", **WINDOW)
    assert source.extent == 3 and source.labels is None and source.spec.num_classes is None
    batch = source.batch(np.arange(len(source)))
    assert (batch["label"] == -1).all()
    x = batch["audio"] / 32_768
    loud = np.sqrt((x[:, :800] ** 2).mean(axis=1))
    np.testing.assert_allclose(loud, 0.3 / np.sqrt(2), rtol=0.03)


def test_damaged_empty_and_silent_files_are_named(tmp_path):
    """One folder: everything is the train split."""
    folder = tmp_path / "all"
    for number in range(3):
        write(folder / f"{number}.flac", tone(0.25))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    cut = write(folder / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 16_000))
    cut.write_bytes(cut.read_bytes()[:300])
    write(folder / "silent.wav", np.zeros(4_000))
    source = data.load(f"folder:{tmp_path}", **WINDOW)
    batch = source.batch(np.arange(len(source)))
    assert len(batch["audio"]) == len(source)
    named = {path.rpartition("/")[2] for path in source.problems}
    assert named == {"empty.wav", "text.wav", "cut.flac"}, source.problems
    (note,) = source.notes()
    assert note.startswith("1 of 5 recordings looked at are silent") and "silent.wav" in note
    with pytest.raises(UserError, match="the recording .* cannot be read .*data.strict=False"):
        data.load(f"folder:{tmp_path}", strict=True, **WINDOW)


def test_folders_without_recordings_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        data.load(f"folder:{tmp_path}/no", **WINDOW)
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"no recordings \(.wav, .flac"):
        data.load(f"folder:{tmp_path}", **WINDOW)
    voices(tmp_path)
    with pytest.raises(UserError, match="has no such labels of frames; it has speaker"):
        data.load(f"folder:{tmp_path}", folders="speakers", targets=("phone",), **WINDOW)


def librispeech(root):
    """Three speakers with two chapters of two utterances of 0.25 s, 4000 samples: 25 frames."""
    names = []
    for speaker in (19, 7, 100):
        for chapter in (5, 6):
            for number in range(2):
                name = f"{speaker}-{chapter}-{number:04}"
                folder = root / "train-clean-100" / str(speaker) / str(chapter)
                write(folder / f"{name}.flac", tone(0.25, pitch=100.0 + speaker))
                names.append(name)
    write(root / "dev-clean" / "3" / "1" / "3-1-0000.flac", tone(0.25))
    return names


def test_librispeech_as_published(tmp_path):
    names = librispeech(tmp_path)
    (tmp_path / "test_split.txt").write_text("\n".join(names[::4]) + "\n")
    (tmp_path / "train_split.txt").write_text("\n".join(n for n in names if n not in names[::4]))
    lines = [f"{name} {' '.join(str(7 + i) for i in range(23))}\n" for name in names]
    with zipfile.ZipFile(tmp_path / "converted_aligned_phones.zip", "w") as archive:
        archive.writestr("converted_aligned_phones.txt", "".join(lines))
    name = f"librispeech:{tmp_path}"
    train = data.load(name, windows="consecutive", window=3_200)
    test = data.load(name, "test", windows="consecutive", window=3_200)
    assert (train.extent, test.extent) == (9, 3)
    assert train.class_names == ("7", "19", "100") == test.class_names
    assert data.splits(name) == ("train", "test", "dev-clean", "train-clean-100")
    batch = test.batch(np.arange(2))
    speaker = int(test.recordings.name(0).rpartition("/")[2].partition("-")[0])
    assert test.class_names[batch["label"][0]] == str(speaker)
    np.testing.assert_array_equal(batch["phone"][0], 7 + np.arange(20))
    # 25 frames, of which the last two have no phone: 20 in the first window, 3 in the second.
    np.testing.assert_array_equal(batch["phone"][1], [27, 28, 29] + [-1] * 17)
    np.testing.assert_array_equal(batch["speaker"][1], [batch["label"][0]] * 5 + [-1] * 15)
    dev = data.load(name, "dev-clean", window=3_200)  # no alignments of its utterances
    assert dev.num_classes == 1 and "phone" not in dev.spec.arrays


def test_librispeech_without_lists_holds_out_a_fifth(tmp_path):
    librispeech(tmp_path)
    train, test = (data.load(f"librispeech:{tmp_path}", split) for split in ("train", "test"))
    assert (train.extent, test.extent) == (9, 3)
    seen = [{s.recordings.name(i) for i in range(s.extent)} for s in (train, test)]
    assert not seen[0] & seen[1]
    assert train.spec.arrays.keys() == {"audio", "speaker", "label", "index"}


def test_librispeech_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="has no folder such as train-clean-100"):
        data.load(f"librispeech:{tmp_path}")
    librispeech(tmp_path)
    (tmp_path / "train_split.txt").write_text("1-2-0003\n")
    with pytest.raises(UserError, match="names 1 utterances that are not .*, such as 1-2-0003"):
        data.load(f"librispeech:{tmp_path}")
    (tmp_path / "train_split.txt").unlink()
    (tmp_path / "converted_aligned_phones.txt").write_text("1-2-0003 4 x\n")
    with pytest.raises(UserError, match="line 1: not a name and numbers"):
        data.load(f"librispeech:{tmp_path}")
    with pytest.raises(UserError, match="a phone for every 160 samples at 16000 Hz"):
        data.load(f"librispeech:{tmp_path}", sample_rate=8_000)
    write(tmp_path / "train-clean-100" / "x.flac", tone(0.1))
    with pytest.raises(UserError, match="x.flac is not named as in LibriSpeech"):
        data.load(f"librispeech:{tmp_path}")


def test_recordings_in_tar_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as archive:
            for number, extension in enumerate(("wav", "flac", "ogg")):
                stem = f"{shard}{number}"
                path = write(tmp_path / "parts" / f"{stem}.{extension}", tone(0.25))
                archive.add(path, f"{stem}.{extension}")
                (tmp_path / "label").write_text(str(number))
                archive.add(tmp_path / "label", f"{stem}.cls")
    (tmp_path / "bad").write_text("no audio")
    with tarfile.open(tmp_path / "s-2.tar", "w") as archive:
        archive.add(tmp_path / "bad", "20.wav")
    name = f"tar:{tmp_path}/s-*.tar"
    source = data.load(name, windows="consecutive", **WINDOW)
    assert source.extent == 6 and source.num_classes == 3
    batch = source.batch(np.arange(len(source)))
    np.testing.assert_array_equal(batch["label"], np.repeat([0, 1, 2, 0, 1, 2], 3))
    parts = data.load(f"folder:{tmp_path}/parts", windows="consecutive", **WINDOW)
    by_name = {
        parts.recordings.name(i).rpartition("/")[2]: parts.recordings.samples(i, 100, 900)
        for i in range(6)
    }
    for i in range(6):
        member = source.recordings.name(i).rpartition(":")[2]
        np.testing.assert_array_equal(source.recordings.samples(i, 100, 900), by_name[member])
    (problem,) = source.problems
    assert problem.endswith("s-2.tar:20.wav")
    with pytest.raises(UserError, match="no images"):
        data.load(name, image_size=8)
