"""traverse and interpolate: pictures of a tiny VAE and of an autoencoder, and what they refuse."""

import io
import types

import jax
import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.cli import latent_pictures
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images
from ssl_jax.methods.base.latents import Latents, traversals
from ssl_jax.pretrained import trained_run
from ssl_jax.report import picture_files
from tests.commands import run

FLAGS = (
    "--config.model.widths=(16,)",
    "--config.nets.decoder.widths=(16,)",
    "--config.method.num_latents=3",
    "--config.steps=2",
    "--config.optimizer.warmup_epochs=0",
    "--config.eval.every_epochs=0",
    "--config.eval.names=()",
    "--config.eval.final_names=()",
    "--config.eval.baselines=()",
    "--config.log.report=False",
    "--config.log.tensorboard=False",
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "vae"
    run(workdir, "--config=vae:digits", *FLAGS)
    return workdir


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
def test_traversals_are_those_of_the_method(vae, tmp_path):
    options = (f"--output={tmp_path}/x/t.png", "--examples=3,17", "--latents=2,0")
    done = run(vae, *options, module="traverse")
    assert done.stdout == f"digits[test], step 2: {tmp_path}/x/t.png\n"
    picture = pixels(tmp_path / "x" / "t.png")
    trained = trained_run.load(str(vae))
    method, w = trained.experiment.method, trained.weights
    batch = {"image": data.load("digits", "test").batch(np.array([3, 17]))["image"]}
    item = jax.jit(
        lambda w, batch: traversals(lambda z: method.decode(w, z), method.latents(w, batch), 1,
                                    (2, 0))
    )(w, batch)  # fmt: skip
    first = np.round(255 * np.asarray(item.pixels[0, 0, :, :, 0])).astype(int)
    assert occurs(np.kron(first, np.ones((8, 8), int)), picture)


def occurs(tile, picture):
    """Whether a picture [h w 3] shows a grey tile, up to one level."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], tile.shape)
    near = np.argwhere(np.abs(windows[:, :, ::16, ::16] - tile[::16, ::16]).max((2, 3)) <= 1)
    return any((np.abs(windows[y, x] - tile) <= 1).all() for y, x in near)


def test_lines_are_drawn_above_those_of_pixels(vae, tmp_path):
    options = (f"--output={tmp_path}/i.png", "--examples=5,9,2", "--split=train")
    done = run(vae, *options, module="interpolate")
    assert done.stdout.startswith("digits[train], step 2: ")
    picture = pixels(tmp_path / "i.png")
    images = data.load("digits", "train").batch(np.array([5, 9, 2]))["image"][..., 0].astype(int)
    for image in images:
        assert occurs(np.kron(image, np.ones((8, 8), int)), picture)
    middle = np.round((images[0] + images[1]) / 2).astype(int)
    assert occurs(np.kron(middle, np.ones((8, 8), int)), picture)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1", "400"], "--examples: '400' is not a number from 0 to 358, of digits[test]"),
        (["-1", "2"], "--examples: '-1' is not a number from 0 to 358, of digits[test]"),
        (["two", "2"], "--examples: 'two' is not a number from 0 to 358, of digits[test]"),
        (["1"], "--examples names 1 of at least 2 examples"),
    ],
)
def test_examples_that_are_not_there_are_named(texts, message):
    with pytest.raises(UserError) as told:
        latent_pictures.read_examples(texts, data.load("digits", "test"), at_least=2)
    assert str(told.value) == message


def test_a_run_without_a_decoder_and_other_files_are_refused(vae):
    with pytest.raises(UserError, match="runs/x is a run of SimCLR, which decodes no images"):
        latent_pictures.check_decodes("runs/x", types.SimpleNamespace(title="SimCLR"))
    done = run(vae, "--output=x.jpg", module="interpolate", check=False)
    assert done.stderr == "error: --output=x.jpg: the suffix must be .png\n"
    done = run(vae, module="traverse", check=False)
    assert done.stderr == "error: --output is missing\n"


# ----------------------------------------------------------------------------------------- pictures


def linear_latents():
    rng = np.random.default_rng(0)
    return Latents(
        z=rng.normal(size=(2, 4)).astype(np.float32), x=np.zeros((2, 2, 2, 1)),
        size=np.array([0.1, 0.4, 0.2, 0.3]), unit=np.array([1.0, 2.0, 1.0, 0.5]),
        caption="latent {:.0f}, KL {:.2f}", note="",
    )  # fmt: skip


def test_rows_are_latents_by_size_and_steps_are_in_their_units():
    latents = linear_latents()
    item = traversals(lambda z: z.reshape(-1, 2, 2, 1), latents, example=1)
    order = [1, 3, 2, 0]
    np.testing.assert_array_equal(item.row_values[:, 0], order)
    np.testing.assert_allclose(item.row_values[:, 1], [0.4, 0.3, 0.2, 0.1])
    for row, number in enumerate(order):
        for column, step in enumerate(range(-3, 4)):
            expected = latents.z[1].copy()
            expected[number] += step * latents.unit[number]
            np.testing.assert_allclose(item.pixels[row, column].ravel(), expected, rtol=1e-6)
    named = traversals(lambda z: z.reshape(-1, 2, 2, 1), latents, numbers=(2,))
    assert named.pixels.shape == (1, 7, 2, 2, 1) and named.columns[0] == "-3"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_all_images_at_a_readable_size(channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 5, 4, channels), np.uint8)
    table = Images(pixels, inputs=pixels[:, 0], columns=("a", "b", "c"), rows=("one", "two"))
    picture = np.asarray(
        Image.open(io.BytesIO(picture_files.png([("first", table), ("second", table)])))
    )
    large = np.kron(pixels, np.ones((1, 1, 13, 13, 1), np.uint8))
    assert large.shape[2:4] == (65, 52) and picture.shape[0] > 4 * 65
    rgb = np.broadcast_to(large, (*large.shape[:4], 3))
    windows = np.lib.stride_tricks.sliding_window_view(picture, (65, 52, 3))[:, :, 0]
    corners = windows[:, :, 32, 26, :]
    for image in rgb.reshape(-1, 65, 52, 3):
        places = np.argwhere((corners == image[32, 26]).all(axis=-1))
        assert sum((windows[y, x] == image).all() for y, x in places) >= 2
