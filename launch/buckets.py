"""Checks the bucket paths on command lines: --workdir and --mount."""

from __future__ import annotations

import re

from ssl_jax.core.errors import UserError

# A bucket name of Cloud Storage and a path in it. The bucket's root is not allowed.
_WORKDIR = re.compile(r"gs://[a-z0-9][-._a-z0-9]{1,220}[a-z0-9]/[^/].*")


def check_workdir(workdir: str, machine: str) -> None:
    """Raises UserError unless `workdir` is gs://BUCKET/PATH.

    Args:
      workdir: the value of the flag.
      machine: the kind of machine, whose disk is deleted with it, e.g. "a pod".
    """
    if not workdir.startswith("gs://"):
        raise UserError(
            f"--workdir={workdir}: the disk of {machine} is deleted with it; use gs://BUCKET/PATH"
        )
    if not _WORKDIR.fullmatch(workdir):
        raise UserError(f"--workdir={workdir} is not a path in a bucket; use gs://BUCKET/PATH")


def split_mount(mount: str) -> tuple[str, str]:
    """(bucket, path) of BUCKET:/PATH.

    Raises:
      UserError: `mount` has another form.
    """
    bucket, separator, path = mount.partition(":")
    if not (bucket and separator and path.startswith("/")):
        raise UserError(f"--mount={mount} is not of the form BUCKET:/PATH")
    return bucket, path
