"""Windows of recordings, their labels of frames, and what happens with bad recordings."""

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.audio.audio_source import AudioOptions, AudioSource
from ssl_jax.data.audio.recordings import Recordings


class Counted(Recordings):
    """Recording r has samples 1000 r + position, and phone f % 7 in frame f."""

    def __init__(self, lengths, broken=()):
        self.lengths = np.array(lengths, np.int64)
        self.labels = self.speakers = np.arange(len(lengths), dtype=np.int32)
        self.broken = broken

    def name(self, number):
        return f"recording {number}"

    def samples(self, number, start, stop):
        if number in self.broken:
            raise OSError("a bad disk")
        stop = min(stop, int(self.lengths[number]))
        return (1_000 * number + np.arange(start, stop)).astype(np.int16)

    def phones(self, number):
        return np.arange(self.lengths[number] // 10) % 7


def source(lengths, windows="random", broken=(), **fields):
    options = AudioOptions(window=100, frame=10, windows=windows)
    return AudioSource(
        name="counted", recordings=Counted(lengths, broken), options=options,
        targets=("phone", "speaker"), num_classes=len(lengths), **fields,
    )  # fmt: skip


def test_consecutive_windows_cover_every_recording_once():
    made = source([250, 60, 100], "consecutive")
    assert len(made) == 3 + 1 + 1 and made.extent == 3
    batch = made.batch(np.arange(5))
    np.testing.assert_array_equal(batch["label"], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(made.labels, batch["label"])
    np.testing.assert_array_equal(batch["audio"][1], np.arange(100, 200))
    # The last window of 250 samples has 50, and 5 frames with labels.
    np.testing.assert_array_equal(batch["audio"][2], np.r_[np.arange(200, 250), np.zeros(50)])
    np.testing.assert_array_equal(batch["speaker"][2], [0] * 5 + [-1] * 5)
    np.testing.assert_array_equal(batch["phone"][2], [*(np.arange(20, 25) % 7), *[-1] * 5])
    # Every row as the spec says, and no window depends on the batch that it is read in.
    for name, array in made.spec.batch(5).items():
        assert (batch[name].shape, batch[name].dtype) == (array.shape, array.dtype), name
    for key, value in made.batch(np.array([3]), seed=5, step=9).items():
        np.testing.assert_array_equal(value[0], batch[key][3])


def test_random_windows_are_functions_of_seed_step_and_position():
    made = source([1_000, 90])
    indices = np.zeros(400, int)
    first = made.batch(indices, seed=1, step=2)
    np.testing.assert_array_equal(made.batch(indices, seed=1, step=2)["audio"], first["audio"])
    part = made.batch(indices[:3], seed=1, step=2, positions=np.array([7, 3, 9]))
    np.testing.assert_array_equal(part["audio"], first["audio"][[7, 3, 9]])
    assert np.any(made.batch(indices, seed=1, step=3)["audio"] != first["audio"])
    assert np.any(made.batch(indices, seed=2, step=2)["audio"] != first["audio"])
    # Window 0 of 10 begins in the first tenth of [0, 900], on a frame; labels move with it.
    starts = first["audio"][:, 0]
    assert set(starts) == set(range(0, 90, 10))
    np.testing.assert_array_equal(first["phone"][:, 0], starts // 10 % 7)
    last = made.batch(np.full(400, 9), seed=1)["audio"][:, 0]
    assert last.min() >= 810 and last.max() <= 900
    assert (made.batch(np.array([10]))["audio"][0, :90] == 1_000 + np.arange(90)).all()


def test_a_sub_split_does_not_cut_through_recordings():
    made = source([250, 60, 100], "consecutive")
    part = made.select(1, 3)
    assert part.extent == 2 and len(part) == 2
    np.testing.assert_array_equal(part.batch(np.arange(2))["label"], [1, 2])
    again = part.joined([made.select(0, 1)])
    np.testing.assert_array_equal(again.batch(np.arange(5))["label"], [1, 2, 0, 0, 0])
    assert again.recordings.name(2) == "recording 0"
    np.testing.assert_array_equal(again.labels, [1, 2, 0, 0, 0])


def test_an_unreadable_recording_is_replaced_or_stops_the_run():
    made = source([250, 60, 100], broken=(0, 1))
    batch = made.batch(np.array([0, 3, 4]))
    np.testing.assert_array_equal(batch["label"], [2, 2, 2])
    np.testing.assert_array_equal(batch["index"], [0, 3, 4])
    assert list(made.problems) == ["recording 0", "recording 1"]
    assert "2 unreadable recordings" in made.problem_summary()
    with pytest.raises(UserError, match="unreadable recording recording 0 .*a bad disk"):
        source([250], broken=(0,), strict=True).batch(np.array([0]))
    with pytest.raises(UserError, match="no readable recording among 2 of counted"):
        source([250, 60], broken=(0, 1)).batch(np.array([0]))


def test_windows_stream_through_worker_threads_like_direct_reads():
    made = source([1_000, 900, 333, 90])
    with data.batches(made, batch_size=8, seed=3, num_steps=3) as stream:
        for step, batch in enumerate(stream):
            direct = made.batch(batch["index"], seed=3, step=step)
            for key, value in batch.items():
                np.testing.assert_array_equal(value, direct[key], err_msg=key)


def test_bad_options_are_one_line():
    for options, message in (
        (dict(window=1_000), "window is 1000; it must be a multiple of .*, e.g. 960 or 1120"),
        (dict(targets=("word",)), "data.options.targets"),
        (dict(sample_rate=8_000), "speech is made with 16000"),
        (dict(window=0), "data.options.window is 0"),
    ):
        with pytest.raises(UserError, match=message):
            data.load("speech", num_generated=2, **options)
    with pytest.raises(UserError, match="data.image_size is 32, but speech is audio"):
        data.load("speech", image_size=32)
