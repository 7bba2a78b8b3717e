"""Packs the code of one commit for a launched run; the working tree is not used.

Every launcher uses the same `git archive`: TPU VMs fetch it from the run's folder in the bucket,
images are built from it, SLURM jobs unpack it. So the code of a run is identified by its commit,
and edits made while a job waits in a queue have no effect. Uncommitted changes are refused unless
`--allow_uncommitted` is set; a dry run only reports them.
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
      changed: whether configs are looked up in the working tree instead of the commit. True in a
        dry run with uncommitted changes.
    """

    sha: str
    changed: bool = False

    @classmethod
    def find(
        cls, revision: str = "HEAD", *, allow_uncommitted: bool = False, dry_run: bool = False
    ) -> Commit:
        """The commit of a revision.

        Args:
          revision: any name of a commit that git accepts.
          allow_uncommitted: with HEAD, ignore uncommitted changes instead of refusing them.
          dry_run: report uncommitted changes on standard error and continue.

        Raises:
          UserError: this is not a git checkout, the revision does not exist, or there are
            uncommitted changes.
        """
        if _git("rev-parse", "--show-toplevel").stdout.strip() != str(ROOT):
            raise UserError(
                f"{ROOT} is not a git checkout, and launching packs a commit; clone the repository"
            )
        parsed = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if parsed.returncode:
            raise UserError(f"--commit={revision}: git knows no such commit")
        changes = _git("status", "--porcelain").stdout.splitlines()
        refused = bool(changes) and revision == "HEAD" and not allow_uncommitted
        if refused:
            listing = ", ".join(line[3:] for line in changes[:3])
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            message = (
                f"uncommitted changes would not run: {listing}{more}; commit them, or launch the "
                "last commit without them: --allow_uncommitted"
            )
            if not dry_run:
                raise UserError(message)
            print(f"note: without --dry_run this is refused: {message}", file=sys.stderr)
        return cls(parsed.stdout.strip(), changed=refused)

    @property
    def short(self) -> str:
        return self.sha[:12]

    def archive_command(self) -> tuple[str, ...]:
        """The command that writes the code as a compressed tar file to standard output."""
        folder = () if pathlib.Path.cwd() == ROOT else ("-C", str(ROOT))
        return ("git", *folder, "archive", "--format=tar.gz", self.sha)

    def check_config(self, config: str) -> str:
        """Checks that the commit has a config.

        Returns:
          `NAME[:VARIANT]` unchanged; `FILE.py[:VARIANT]` relative to the repository.

        Raises:
          UserError: the commit has no such config or file, or the config has no such variant.
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
        # The variant of an ablation's config may be followed by a comma and more.
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
        """The content of a file of the commit; None if it does not exist."""
        if self.changed:
            path = ROOT / relative
            # Files that are tracked or could be committed.
            flags = ("--cached", "--others", "--exclude-standard")
            if not path.is_file() or not _git("ls-files", *flags, "--", relative).stdout:
                return None
            return path.read_text(encoding="utf-8")
        blob = _git("cat-file", "blob", f"{self.sha}:{relative}")
        return None if blob.returncode else blob.stdout


def _variants(text: str) -> Sequence[str] | None:
    """The literal `VARIANTS` of a config, read without executing it; None if it has none."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):  # it may need a newer Python than this one
        return None
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "VARIANTS":
            try:
                names = ast.literal_eval(node.value)
            except ValueError:  # it is computed
                return None
            is_list = isinstance(names, (tuple, list)) and all(isinstance(v, str) for v in names)
            return names if is_list else None
    return None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is missing, and launching needs it") from None
