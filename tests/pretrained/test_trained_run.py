"""A run loaded for its features: which step, which texts, which classes; and the embed command."""

import abc
import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import ssl_jax
from ssl_jax import checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import trained_run
from tests.commands import run
from tests.methods.table import ROWS


def workdir_of(row, path, **overrides):
    """A run of the table with checkpoints of steps 3 and 5, its weights random."""
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec, class_names=source.class_names)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    state = Experiment.build(config, source.spec, mesh).init_state()
    path.mkdir(parents=True)
    (path / "config.json").write_text(config_lib.to_json(config))
    if source.tokenizer_json() is not None:
        (path / "tokenizer.json").write_text(source.tokenizer_json())
    with checkpoint.Checkpointer(path) as saves:
        for step in (3, 5):
            saves.save(step, state, wait=True)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return workdir_of("simclr", tmp_path_factory.mktemp("images") / "x@home")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return workdir_of("supervised-text", tmp_path_factory.mktemp("texts") / "run")


def test_a_step_behind_the_run(images):
    assert trained_run.load(images).step == 5  # its name has an @, and it may be a path
    found = trained_run.load(f"{images}@3")
    assert (found.step, found.workdir) == (3, str(images))
    assert trained_run.load(f"{images}@3", 3).step == 3
    for workdir, step, message in (
        (f"{images}@4", None, "4"),
        (f"{images}@last", None, r"@last is not a run; after @ stands a step, a number"),
        (f"{images}@3", 5, "@3 selects step 3, but step=5; remove one of them"),
        (f"{images}-no@3", None, "-no is not a run: it has no config.json"),
    ):
        with pytest.raises(UserError, match=message):
            trained_run.load(workdir, step)


def test_what_is_no_list_of_texts_is_refused(texts):
    classifier = trained_run.load(texts)
    assert classifier.text_features(np.array(["a great ship", "a"]))["logits"].shape == (2, 2)
    assert classifier.text_features(("a", "b"), (text for text in "cd"))["h"].shape == (2, 16)
    for arguments, message in (
        (("a great ship",), "texts is a single string, 'a great ship'; use a list: [text]"),
        ((["a"], "b"), "second is a single string, 'b'; use a list: [text]"),
        (([("a", "b")],), "texts[0] is ('a', 'b'), not a text; pass the second texts of pairs as"),
        ((["a", None],), "texts[1] is None, not a text; use strings"),
        ((["a"], [b"b"]), "second[0] is b'b', not a text; use strings"),
    ):
        with pytest.raises(UserError) as caught:
            classifier.text_features(*arguments)
        assert str(caught.value).startswith(message)


def test_a_damaged_tokenizer_is_one_line(texts, tmp_path):
    run = dataclasses.replace(trained_run.load(texts), workdir=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match="tokenizer.json is not a tokenizer: Model missing"):
        run.text_features(["a"])


def test_the_names_of_the_classes(images, texts, tmp_path):
    assert trained_run.load(texts).class_names == ("no", "yes")  # saved with the run
    assert trained_run.load(images).class_names == tuple("0123456789")
    for i in range(20):
        (tmp_path / "data" / "cd"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), i).save(tmp_path / "data" / "cd"[i % 2] / f"{i}.png")
    folder = workdir_of(
        "simclr", tmp_path / "run", data__name=f"folder:{tmp_path}/data", data__image_size=16,
        data__channels=1, batch_size=8,
    )  # fmt: skip
    assert trained_run.load(folder).class_names == ("c", "d")
    (tmp_path / "data" / "c").rename(tmp_path / "data" / "e")
    assert trained_run.load(folder).class_names == ("c", "d")  # not what the folders say today


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_left_out(images, tmp_path):
    for i in range(3):
        Image.new("L", (16, 16), 80 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_text("")
    output = tmp_path / "h.npz"
    arguments = (f"--data=folder:{tmp_path}", f"--output={output}")
    told, note = run(images, *arguments, module="embed").stdout.strip().splitlines()
    assert told.startswith(f"3x{np.load(output)['h'].shape[1]} features of ")
    assert note.startswith(f"1 unreadable image left out; first: {tmp_path}/bad.png (")


def test_the_public_names_are_those_of_their_modules():
    code = "import ssl_jax, sys; assert 'jax' not in sys.modules; print(ssl_jax.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ssl_jax.__all__)
    assert ssl_jax.load is trained_run.load
    assert issubclass(ssl_jax.Method, abc.ABC) and ssl_jax.losses.nt_xent
    with pytest.raises(AttributeError, match="'ssl_jax' has no attribute 'lod'"):
        ssl_jax.lod  # noqa: B018
