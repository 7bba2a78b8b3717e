"""The code that a launched run executes: the archive of one commit, never the working tree.

Everywhere the same `git archive` goes out: TPU VMs fetch it from the run's own folder in the
bucket, images are built from it, SLURM jobs unpack it. So what ran can be named, and editing files
while a job waits in a queue changes nothing. Uncommitted changes are refused, unless one says that
they do not matter.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess

from ssl_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit of this repository.

    Attributes:
      sha: its 40 hexadecimal digits.
    """

    sha: str

    @classmethod
    def find(cls, revision: str = "HEAD", *, allow_uncommitted: bool = False) -> Commit:
        """The commit of a revision.

        Args:
          revision: anything git knows as a commit.
          allow_uncommitted: with HEAD, leave out changes that are not committed instead of
            refusing them.

        Raises:
          UserError: this is no git checkout, there is no such revision, or there are changes.
        """
        if _git("rev-parse", "--show-toplevel").stdout.strip() != str(ROOT):
            raise UserError(
                f"{ROOT} is no git checkout: what is launched is the archive of a commit; "
                "clone the repository"
            )
        found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if found.returncode:
            raise UserError(f"--commit={revision}: git knows no such commit")
        changes = _git("status", "--porcelain").stdout.splitlines()
        if changes and revision == "HEAD" and not allow_uncommitted:
            listing = ", ".join(line[3:] for line in changes[:3])
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise UserError(
                f"uncommitted changes would not run: {listing}{more}; commit them, or launch the "
                "last commit without them: --allow_uncommitted"
            )
        return cls(found.stdout.strip())

    @property
    def short(self) -> str:
        return self.sha[:12]

    def archive_command(self) -> tuple[str, ...]:
        """Writes the code as a compressed tar file to standard output."""
        at = () if pathlib.Path.cwd() == ROOT else ("-C", str(ROOT))
        return ("git", *at, "archive", "--format=tar.gz", self.sha)

    def check_config(self, config: str) -> str:
        """A config of the commit, `FILE.py` or `FILE.py:VARIANT`, relative to the repository.

        Raises:
          UserError: the commit has no such file.
        """
        path, separator, variant = config.partition(":")
        relative = os.path.relpath(ROOT / path, ROOT)
        if _git("cat-file", "-e", f"{self.sha}:{relative}").returncode:
            where = "is not committed" if (ROOT / path).exists() else "does not exist"
            raise UserError(f"--config={config}: {relative} {where} ({self.short})")
        return f"{relative}{separator}{variant}"


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is missing, and launching needs it") from None
