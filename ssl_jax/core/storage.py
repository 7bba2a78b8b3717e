"""Writes the files of a run to a file system or to an object store such as gs://."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import stat
import sys
from collections.abc import Iterator
from typing import Any

import fsspec.config
from etils import epath

from ssl_jax.core.errors import UserError

# gcsfs caches listings: a process would not see files that other processes, such as the cells of a
# sweep or an evaluation, write later.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def is_object_store(path: epath.PathLike) -> bool:
    """Whether the path is in an object store.

    Objects cannot be appended to or renamed, but they appear atomically.
    """
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path with `~` expanded, absolute on a file system."""
    path = epath.Path(path)
    return path if is_object_store(path) else path.expanduser().absolute()


_WILDCARDS = "[]*?\\"


def check_path(path: epath.PathLike) -> None:
    """Checks that checkpoints below a folder could be written and found again.

    Orbax finds the files of a checkpoint by a pattern that contains the path, and takes a path as
    Unicode. In the locale C, Python decodes the bytes of other letters to lone surrogates.

    Raises:
      UserError: the absolute path has a wildcard, or is not Unicode to this process.
    """
    path = absolute(path)
    _check_unicode(os.fspath(path))
    if characters := [c for c in _WILDCARDS if c in os.fspath(path)]:
        raise UserError(
            f"{path}: the path of a workdir cannot contain {' '.join(characters)}; checkpoints in "
            "it could not be read"
        )


def _check_unicode(path: str) -> None:
    encoding = sys.getfilesystemencoding()
    try:
        if os.fsencode(path).decode() == path:
            return
    except UnicodeError:
        pass
    shown = path.encode(errors="backslashreplace").decode()
    if encoding == "utf-8":
        raise UserError(f"{shown}: the path of a workdir has to be UTF-8; rename the folder")
    raise UserError(
        f"{shown}: the path of a workdir has letters that are not ASCII, and this process reads "
        f"paths as {encoding}; set the environment variable PYTHONUTF8=1"
    )


def read_text(path: epath.PathLike) -> str:
    """The text of a file of a run.

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return epath.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """The JSON object in a file of a run.

    Raises:
      UserError: it cannot be read, or is no JSON object.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return content


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file atomically.

    A reader never sees half of it, even if this process is killed or the machine loses power. A
    link stays one, and a file keeps its permissions.

    Args:
      path: the file, whose folder exists; its old content is replaced.
      content: text is written as UTF-8, names of files that are not UTF-8 with escapes.

    Raises:
      OSError: the old content is still there; the error names the file.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if is_object_store(path):
        path.write_bytes(data)
        return
    path = epath.Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave the new name without content
        if path.exists():
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno and error.filename in (None, os.fspath(temporary)):
            error.filename = os.fspath(path)
        raise


def check_output(path: epath.Path) -> None:
    """Makes the folder of a file that a command will write, and checks that the file can be one.

    Raises:
      UserError: it cannot.
    """
    if is_object_store(path):
        return
    file = epath.Path(os.path.realpath(path))  # which `write_whole` replaces by one beside it
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error}") from error
    if file.is_dir():
        raise UserError(f"--output={path} is a folder; name a file")
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise UserError(f"--output={path} cannot be written: no permission")


@contextlib.contextmanager
def one_at_a_time(folder: epath.Path) -> Iterator[None]:
    """Lets one process at a time run the block, e.g. to read a file, change it and write it.

    Others wait. They wait for a lock on `folder/.lock`, which the system releases when a process
    ends, also after `kill -9`. Object stores, and file systems without locks, make nobody wait.

    Args:
      folder: which exists.

    Raises:
      OSError: the folder cannot be written.
    """
    if is_object_store(folder):
        yield
        return
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def upload(folder: pathlib.Path, target: epath.Path) -> None:
    """Copies the files of a local folder and its subfolders into `target`."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(folder).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
