"""Checks buckets on command lines: where a run is stored, and what is mounted."""

from __future__ import annotations

import re

from ssl_jax.core.errors import UserError

# As Cloud Storage names buckets; behind it a path, so that a run does not fill the bucket itself.
_WORKDIR = re.compile(r"gs://[a-z0-9][-._a-z0-9]{1,220}[a-z0-9]/[^/].*")


def check_workdir(workdir: str, disk: str) -> None:
    """Raises UserError unless `workdir` is gs://BUCKET/PATH.

    Args:
      workdir: as it was given.
      disk: whose disk does not last, e.g. "a pod".
    """
    if not workdir.startswith("gs://"):
        raise UserError(
            f"--workdir={workdir}: {disk}'s disk goes when it goes; use gs://BUCKET/PATH"
        )
    if not _WORKDIR.fullmatch(workdir):
        raise UserError(f"--workdir={workdir} is no path in a bucket; use gs://BUCKET/PATH")


def split_mount(mount: str) -> tuple[str, str]:
    """(bucket, path) of BUCKET:/PATH.

    Raises:
      UserError: it is written in another way.
    """
    bucket, separator, path = mount.partition(":")
    if not (bucket and separator and path.startswith("/")):
        raise UserError(f"--mount={mount}: written BUCKET:/PATH")
    return bucket, path
