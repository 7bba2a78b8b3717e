"""What a method shows of itself: images of several sizes, captions, tables, sound."""

import base64
import io
import re
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import report
from ssl_jax.core import items
from ssl_jax.report import shown, spectrograms


def page(**shown_items):
    titles = {name.replace("_", " "): item for name, item in shown_items.items()}
    return report.render(report.ReportInputs(config={}, shown=titles))


def test_items_are_made_under_jit_and_keep_their_captions():
    @jax.jit
    def show(x):
        return {"a": items.Images(x[None, None], row_values=x[:1, 0, 0][None], rows=("z {:.1f}",)),
                "b": items.Table(x[:, :, 0], rows=("r",), columns=("c", "d"))}  # fmt: skip

    made = show(jnp.full((2, 2, 1), 0.25))
    assert made["a"].rows == ("z {:.1f}",) and made["b"].columns == ("c", "d")
    text = page(**made)
    assert "z 0.2" in text or "z 0.3" in text
    assert text.count("<td>0.25</td>") == 4


def test_latent_traversals_have_captions_of_their_rows_and_columns():
    pixels = np.random.default_rng(0).random((3, 5, 8, 8, 3), np.float32)
    item = items.Images(
        pixels, rows=("latent {:.0f}, KL {:.2f}",) * 3, columns=("-2", "-1", "0", "1", "2"),
        row_values=np.array([[7, 1.25], [2, 0.5], [9, 0.0]]), note="From -2 to 2.",
    )  # fmt: skip
    text = page(Latent_traversals=item)
    for caption in ("latent 7, KL 1.25", "latent 9, KL 0.00", "<div>-2</div>", "From -2 to 2."):
        assert caption in text
    assert text.count("<img") == 15 and 'id="shown0-latent-traversals"' in text


def test_views_of_two_sizes_stand_in_one_row_smaller_ones_smaller():
    item = items.Images(
        (np.zeros((2, 2, 96, 96, 3)), np.zeros((2, 6, 48, 48, 3))),
        inputs=np.zeros((2, 96, 96, 3), np.uint8),
    )
    text = page(Views=item)
    assert text.count("<img") == 2 * (1 + 2 + 6)
    assert "repeat(2, minmax(0, 96px)) repeat(6, minmax(0, 48px))" in text
    assert "Framed: the image that enters." in text


def test_more_than_fits_is_left_out_and_nothing_is_no_section():
    many = items.Images(np.zeros((40, 40, 4, 4, 1)))
    assert page(Many=many).count("<img") == shown.MAX_ROWS * shown.MAX_COLUMNS
    assert "Nothing" not in page(Nothing=items.Images(np.zeros((0, 2, 4, 4, 1))))


def test_what_cannot_be_drawn_is_left_out():
    broken = items.Table(np.ones((1, 1)), form="{:d}")  # no integer
    text = page(Broken=broken, Fine=items.Table(np.ones((1, 1))))
    assert "Broken" not in text and "Fine" in text


def test_sound_is_a_file_in_the_page():
    samples = np.array([[0.0, 0.5, -1.0, 2.0, np.nan]])
    text = page(Speech=items.Audio(samples, captions=("hello <b>",), rate=8000))
    assert "hello &lt;b&gt;" in text and "media-src data:" in text
    (encoded,) = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as file:
        assert file.getframerate() == 8000
        pcm = np.frombuffer(file.readframes(5), "<i2")
    assert pcm.tolist() == [0, 16384, -32767, 32767, 0]


def test_an_unknown_item_is_a_mistake_of_the_method():
    with pytest.raises(TypeError, match="cannot show dict"):
        shown.content({}, report.ReportInputs(config={}))


def test_spectrograms_have_the_runs_of_their_frames():
    samples = np.stack([tone(440.0), np.zeros(1_600), np.full(1_600, np.nan)])
    classes = np.array([[0, 0, 1, 1, -1], [2] * 5, [-1] * 5])
    text = page(Sounds=items.Spectrograms(samples, {"phone": classes}, note="above <b>"))
    assert text.count('aria-label="spectrogram') == 3 and "above &lt;b&gt;" in text
    assert "window 1; below: phone" in text
    assert spectrograms.runs(classes[0]) == [(0, 2, 0), (2, 4, 1)]
    power = spectrograms.log_power(samples[0], columns=10)
    assert power.shape == (10, 201) and (power[3:7].argmax(axis=1) == 440 / (16_000 / 400)).all()


def tone(pitch):
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(1_600) / 16_000)
