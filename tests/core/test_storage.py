"""Files that appear whole, and copies of folders."""

import errno
import os

import jax.numpy as jnp
import pytest
from etils import epath

from ssl_jax.checkpoint import Checkpointer
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "results.json"
    storage.write_whole(path, "old")
    storage.write_whole(path, "grün")
    assert path.read_bytes() == "grün".encode()
    storage.write_whole(path, os.fsdecode(b"caf\xe9"))
    assert path.read_bytes() == rb"caf\udce9"
    storage.write_whole(path, "grün")

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        storage.write_whole(path, b"new")
    assert path.read_text() == "grün"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = epath.Path(tmp_path) / "results.json", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()))
    storage.write_whole(path, "new")
    assert synced == [False]


def test_a_link_stays_one_and_an_error_names_the_file(tmp_path, monkeypatch):
    target, link = tmp_path / "of_today.npz", epath.Path(tmp_path) / "latest.npz"
    os.symlink(target, link)
    storage.write_whole(link, "new")
    assert os.path.islink(link) and target.read_text() == "new"

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        storage.write_whole(link, "newer")
    assert caught.value.filename == str(target) and target.read_text() == "new"


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = epath.Path(tmp_path) / "features.npz"
    storage.write_whole(path, "old")
    os.chmod(path, 0o600)
    storage.write_whole(path, "new")
    assert os.stat(path).st_mode & 0o777 == 0o600 and path.read_text() == "new"


def test_the_folder_of_what_a_link_points_to_is_made(tmp_path):
    link = epath.Path(tmp_path) / "latest.npz"
    os.symlink(tmp_path / "new" / "x.npz", link)
    storage.check_output(link)
    storage.write_whole(link, "new")
    assert (tmp_path / "new" / "x.npz").read_text() == "new"


def test_an_output_that_cannot_be_a_file_is_refused(tmp_path):
    storage.check_output(epath.Path(tmp_path) / "new" / "x.npz")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--output={tmp_path} is a folder; name a file"):
        storage.check_output(epath.Path(tmp_path))
    with pytest.raises(UserError, match="cannot be written: .*Not a directory|File exists"):
        storage.check_output(epath.Path(tmp_path) / "file" / "x.npz")


@pytest.mark.parametrize("content", [b"", b"\xff{}", b"[1]", b"null", b"{" * 20, b"[" * 100_000])
def test_a_damaged_json_file_is_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json cannot be read: ") as caught:
        storage.read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read: .*Is a directory"):
        storage.read_json(tmp_path)


@pytest.mark.parametrize(
    "path, expected", [("gs://bucket/run", True), ("/runs/x", False), ("runs/x:1", False)]
)
def test_object_stores(path, expected):
    assert storage.is_object_store(epath.Path(path)) is expected


def test_upload(tmp_path):
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "a.pb").write_bytes(b"1")
    (tmp_path / "from" / "b").write_bytes(b"2")
    storage.upload(tmp_path / "from", epath.Path(tmp_path) / "to")
    found = {
        os.path.relpath(p, tmp_path / "to"): p.read_bytes()
        for p in (tmp_path / "to").rglob("*")
        if p.is_file()
    }
    assert found == {"deep/a.pb": b"1", "b": b"2"}


@pytest.mark.parametrize("name", ["a[1", "a]", "a*", "a?b", "a\\b"])
def test_a_workdir_that_checkpoints_cannot_be_read_from_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="the path of a workdir cannot contain "):
        Checkpointer(tmp_path / name / "run")
    with pytest.raises(UserError, match="cannot contain "):
        storage.check_path(f"gs://bucket/{name}")
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(UserError, match="cannot contain "):
        storage.check_path("run")
    assert not list((tmp_path / name).iterdir())


def test_paths_that_checkpoints_are_read_from(tmp_path):
    with Checkpointer(tmp_path / "a {b} (c) #d@1 'é'") as saves:
        saves.save(1, {"x": jnp.arange(3)}, wait=True)
        assert saves.restore({"x": jnp.arange(3)})[1] == 1


def test_a_workdir_that_is_not_unicode_is_refused(tmp_path, monkeypatch):
    name = os.fsdecode(b"run_\xff")
    with pytest.raises(UserError, match=r"run_\\udcff: the path of a workdir has to be UTF-8"):
        Checkpointer(tmp_path / name)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(UserError, match="has to be UTF-8"):
        storage.check_path("run")
