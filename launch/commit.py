"""Packs the code of one commit, which a launched run executes; the working tree is not used.

Everywhere the same `git archive` goes out: TPU VMs fetch it from the run's own folder in the
bucket, images are built from it, SLURM jobs unpack it. So what ran can be named, and editing files
while a job waits in a queue changes nothing. Uncommitted changes are refused, unless one says that
they do not matter; a dry run says that they would be.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from ssl_jax.core.errors import UserError, nearest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit of this repository.

    Attributes:
      sha: its 40 hexadecimal digits.
      changed: whether configs are looked up among the files as they are, for a dry run with changes
        that would have to be committed first.
    """

    sha: str
    changed: bool = False

    @classmethod
    def find(
        cls, revision: str = "HEAD", *, allow_uncommitted: bool = False, dry_run: bool = False
    ) -> Commit:
        """The commit of a revision.

        Args:
          revision: anything git knows as a commit.
          allow_uncommitted: with HEAD, leave out changes that are not committed instead of
            refusing them.
          dry_run: say on standard error that changes would be refused, and go on.

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
        refused = bool(changes) and revision == "HEAD" and not allow_uncommitted
        if refused:
            listing = ", ".join(line[3:] for line in changes[:3])
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            told = (
                f"uncommitted changes would not run: {listing}{more}; commit them, or launch the "
                "last commit without them: --allow_uncommitted"
            )
            if not dry_run:
                raise UserError(told)
            print(f"note: without --dry_run this is refused: {told}", file=sys.stderr)
        return cls(found.stdout.strip(), changed=refused)

    @property
    def short(self) -> str:
        return self.sha[:12]

    def archive_command(self) -> tuple[str, ...]:
        """Writes the code as a compressed tar file to standard output."""
        at = () if pathlib.Path.cwd() == ROOT else ("-C", str(ROOT))
        return ("git", *at, "archive", "--format=tar.gz", self.sha)

    def check_config(self, config: str) -> str:
        """`NAME[:VARIANT]` as it is, `FILE.py[:VARIANT]` relative to the repository.

        Raises:
          UserError: the commit has no such config or file, or it has no such variant.
        """
        source, separator, variant = config.partition(":")
        by_name = not source.endswith(".py")
        path = ROOT / "configs" / f"{source}.py" if by_name else ROOT / source
        relative = os.path.relpath(path, ROOT)
        text = self._read(relative)
        if text is None and by_name and not path.exists():
            known = self._config_names()
            raise UserError(
                f"--config={config}: there is no config {source!r} ({self.short}); configs: "
                f"{', '.join(known)}.{nearest(source, known)}"
            )
        if text is None:
            problem = "is not committed" if path.exists() else "does not exist"
            raise UserError(f"--config={config}: {relative} {problem} ({self.short})")
        variants = _variants(text)
        # Of an ablation's config there may be more behind a comma.
        if variant and variants and not {variant, variant.partition(",")[0]} & set(variants):
            raise UserError(
                f"--config={config}: {relative} has no variant {variant!r}; variants: "
                f"{', '.join(variants)}.{nearest(variant, variants)}"
            )
        return f"{source if by_name else relative}{separator}{variant}"

    def _config_names(self) -> list[str]:
        """The names of the commit's configs: `simclr`, `sweeps/methods`."""
        listing = _git("ls-tree", "-r", "--name-only", self.sha, "--", "configs").stdout
        paths = [path.removeprefix("configs/") for path in listing.splitlines()]
        return [path.removesuffix(".py") for path in paths if path.endswith(".py")]

    def _read(self, relative: str) -> str | None:
        """A file of the commit, None if there is none."""
        if self.changed:
            path = ROOT / relative
            kept = ("--cached", "--others", "--exclude-standard")  # what could be committed
            if not path.is_file() or not _git("ls-files", *kept, "--", relative).stdout:
                return None
            return path.read_text(encoding="utf-8")
        found = _git("cat-file", "blob", f"{self.sha}:{relative}")
        return None if found.returncode else found.stdout


def _variants(text: str) -> Sequence[str] | None:
    """What a config's `VARIANTS` names, read without running it; None where that does not say."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):  # perhaps of a newer Python than this one
        return None
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "VARIANTS":
            try:
                found = ast.literal_eval(node.value)
            except ValueError:  # it is computed
                return None
            listed = isinstance(found, (tuple, list)) and all(isinstance(v, str) for v in found)
            return found if listed else None
    return None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is missing, and launching needs it") from None
