"""Saves and restores the training state.

Orbax writes each step to `checkpoints/<step>/state` in the background and commits it by renaming.
If a process is killed while writing, the committed steps stay intact. This module adds the
selection of steps to keep, digests that detect damage, and the fallback to the newest intact step.

Orbax's `CheckpointManager` is not used, for two reasons. If one of several processes fails to write
(its disk is full), the threads of the others wait until a timeout of 20 minutes. And no second
program, such as an evaluation, can open the directory of a running run.
"""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ssl_jax.checkpoint import arrays as arrays_lib
from ssl_jax.checkpoint import digest, quiet, steps
from ssl_jax.checkpoint.arrays import reason, some
from ssl_jax.checkpoint.commit_barrier import CommitBarrier
from ssl_jax.checkpoint.errors import (
    CheckpointError,
    DamagedCheckpointError,
    NonFiniteStateError,
)
from ssl_jax.checkpoint.manifest import FILENAME, ITEM, Entry, Manifest, finite_metrics
from ssl_jax.core.errors import UserError
from ssl_jax.core.storage import absolute, check_path
from ssl_jax.parallel.distributed import any_process, from_first_process, lost_process

_log = logging.getLogger(__name__)

_STATE = "state"


class Checkpointer:
    """The checkpoints of one workdir.

    Every process of a run creates a `Checkpointer` and makes the same calls.

    Args:
        workdir: any path of `etils.epath`, also `gs://...`; the steps are in its `checkpoints/`.
        keep_latest: number of newest steps to keep, at least 1.
        keep_best: number of further steps to keep, those with the best `best_metric`.
        best_metric: name of a metric passed to `save`; None keeps only the newest steps.
        best_mode: "max" or "min".
        read_only: never write or delete, for programs that read a run that may still be training.

    Raises:
        UserError: the path contains a wildcard.
        CheckpointError: the directory cannot be created.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        best_mode: str = "max",
        read_only: bool = False,
    ):
        quiet.silence_orbax()
        check_path(workdir)
        self.directory = absolute(workdir) / "checkpoints"
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._best_metric, self._best_mode = best_metric, best_mode
        self._read_only = read_only
        self._saving: tuple[int, float | None] | None = None
        self._restored: int | None = None
        self._stale: set[int] = set()  # steps after the restored one, replaced by new ones
        self._barrier = CommitBarrier()
        self._writer = _make_writer(self._barrier)
        if not read_only:
            self._make_directory()
        committed = from_first_process(steps.committed(self.directory))
        self._scores = {step: self._score_of(step) for step in committed}

    def all_steps(self) -> list[int]:
        """The committed steps, increasing."""
        return sorted(self._scores)

    def latest_step(self) -> int | None:
        """The newest committed step."""
        return max(self._scores, default=None)

    def best_step(self) -> int | None:
        """The committed step with the best `best_metric`; None if no step has that metric."""
        return next(iter(steps.ranked(self._scores, self._best_mode)), None)

    def save(
        self, step: int, state: Any, metrics: Mapping[str, Any] | None = None, wait: bool = False
    ) -> None:
        """Saves the state of a step in the background.

        It returns as soon as the arrays of `state` may change. A step that is already committed, or
        is being written, is not written again.

        Args:
            step: number of the step.
            state: tree of arrays.
            metrics: scalars by name, including `best_metric` if it was measured at this step.
            wait: return only when the step is committed.

        Raises:
            NonFiniteStateError: an array holds NaN or infinity. Nothing is written.
            CheckpointError: this save cannot start, or the one before it failed.
        """
        if self._read_only:
            raise CheckpointError(f"{self.directory} was opened read-only; step {step} not saved")
        arrays = arrays_lib.flatten(state)
        pending = digest.dispatch(arrays)
        self.wait()
        if self._restored is not None:
            self._stale = {later for later in self._scores if later > self._restored}
            self._scores = {s: v for s, v in self._scores.items() if s not in self._stale}
            self._restored = None
        if step not in self._scores:
            self._start(step, arrays, digest.fetch(pending), finite_metrics(metrics))
        if wait:
            self.wait()

    def _start(
        self,
        step: int,
        arrays: Mapping[str, jax.Array],
        digests: Mapping[str, digest.Digest],
        metrics: Mapping[str, float],
    ) -> None:
        bad = [name for name, checksum in digests.items() if not checksum.finite]
        if bad:
            raise NonFiniteStateError(
                f"step {step} not saved: {some(bad)} is not finite; {self._last_checkpoint()}"
            )
        entries = {name: Entry.of(array, digests[name].value) for name, array in arrays.items()}
        items = {
            _STATE: ocp.args.PyTreeSave(arrays_lib.nest(arrays_lib.with_elements(arrays))),
            ITEM: ocp.args.JsonSave(Manifest(step, entries, metrics).to_json()),
        }
        self._saving = step, metrics.get(self._best_metric)
        self._barrier.start()
        try:
            self._writer.save(
                self.directory / str(step),
                args=ocp.args.Composite(**items),
                force=True,  # replaces a stale step
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until the step being written is committed, then deletes superseded steps.

        Raises:
            CheckpointError: writing failed, for example because the disk is full. Earlier committed
                steps stay intact.
        """
        if self._saving is None:
            return
        try:
            self._writer.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        step, score = self._saving
        self._saving = None
        self._scores[step] = score
        kept = steps.to_keep(
            self._scores,
            keep_latest=self._keep_latest,
            keep_best=self._keep_best,
            best_mode=self._best_mode,
        )
        for old in (set(self._scores) | self._stale) - kept:
            try:
                steps.delete(self.directory, old)
            except OSError as error:  # the next start tries again
                _log.warning("step %d of %s cannot be deleted: %s", old, self.directory, error)
            self._scores.pop(old, None)
        self._stale.clear()

    def _failed(self, error: Exception) -> CheckpointError:
        step, _ = self._saving
        self._saving = None
        self._barrier.fail(reason(error))
        with contextlib.suppress(OSError):  # others write there still; the next start tries again
            steps.delete_leftovers(self.directory)  # frees the disk space
        return CheckpointError(
            f"saving step {step} to {self.directory} failed: {reason(error)}; "
            f"{self._last_checkpoint()}"
        )

    def _last_checkpoint(self) -> str:
        last = self.latest_step()
        return "there is no checkpoint" if last is None else f"the last checkpoint is step {last}"

    def close(self) -> None:
        """Waits for the step being written and ends the background threads."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if lost_process(error):
            return  # a save cannot finish without the lost process
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            _log.error("%s", failure)  # the error that ended the block is raised

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, int] | None:
        """Restores a step, by default the newest intact one.

        Args:
            abstract_state: tree of `jax.ShapeDtypeStruct` with shardings, or of arrays whose
                shapes, dtypes and shardings are used. The devices may differ from those that saved.
                An array without a sharding goes to one local device.
            step: the step to restore; default: the newest. If the newest is damaged, this is logged
                and the step before it is tried.

        Returns:
            The state and its step; None if there is no checkpoint. If later steps exist, the next
            commit after a restore deletes them.

        Raises:
            UserError: the step does not exist, or its arrays differ from `abstract_state`.
            DamagedCheckpointError: the given step is damaged.
            CheckpointError: every checkpoint is damaged.
        """
        leaves, treedef = jax.tree_util.tree_flatten(abstract_state)
        names = list(arrays_lib.flatten(abstract_state))
        default = _one_local_device()
        shapes = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default
            )
            for name, leaf in zip(names, leaves, strict=True)
        }

        def select(manifest: Manifest, step: int) -> dict[str, jax.ShapeDtypeStruct]:
            if differences := manifest.differences(shapes):
                raise UserError(
                    f"checkpoint {self.directory / str(step)} is of a different state: "
                    f"{differences}; use the config it was made with, or another workdir"
                )
            return shapes

        restored = self._restore(select, step)
        if restored is None:
            return None
        arrays, step = restored
        self._restored = step
        return treedef.unflatten(arrays[name] for name in names), step

    def restore_parameters(
        self,
        step: int | None = None,
        *,
        prefixes: Sequence[str] = ("params", "buffers"),
        sharding: jax.sharding.Sharding | None = None,
    ) -> tuple[dict[str, Any], int] | None:
        """Restores parts of the state as nested dicts, without the optimizer or the model.

        Args:
            step: the step to restore; default: the newest intact one.
            prefixes: '/'-joined paths in the state, such as `params` or `opt_state/1/ema`.
            sharding: sharding of every array; default: one local device.

        Returns:
            The arrays of each prefix as nested dicts, and the step; None if there is no checkpoint.
            A prefix without arrays has an empty dict.

        Raises:
            UserError: the step does not exist.
            DamagedCheckpointError: the given step is damaged.
            CheckpointError: every checkpoint is damaged.
        """
        sharding = sharding or _one_local_device()

        def select(manifest: Manifest, _: int) -> dict[str, jax.ShapeDtypeStruct]:
            return {
                name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=sharding)
                for name, entry in manifest.arrays.items()
                if any(name.startswith(f"{prefix}/") for prefix in prefixes)
            }

        restored = self._restore(select, step)
        if restored is None:
            return None
        arrays, step = restored
        parts = {}
        for prefix in prefixes:
            inside = {name for name in arrays if name.startswith(f"{prefix}/")}
            parts[prefix] = arrays_lib.nest(
                {name.removeprefix(f"{prefix}/"): arrays[name] for name in sorted(inside)}
            )
        return parts, step

    def _restore(
        self,
        select: Callable[[Manifest, int], dict[str, jax.ShapeDtypeStruct]],
        step: int | None,
    ) -> tuple[dict[str, jax.Array], int] | None:
        """Reads and verifies the selected arrays of the given step or the newest intact one."""
        self.wait()
        if step is not None and step not in self._scores:
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; there are "
                f"{', '.join(map(str, self.all_steps())) or 'none'}"
            )
        candidates = self.all_steps() if step is None else [step]
        damages = []
        while candidates:
            candidate = candidates.pop()
            try:
                return self._read(candidate, select), candidate
            except DamagedCheckpointError as damage:
                if step is not None:
                    raise
                damages.append(str(damage))
                if candidates:
                    _log.warning("%s; falling back to step %d", damage, candidates[-1])
        if damages:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged: {'; '.join(damages)}; to start "
                "over use another workdir or remove this one"
            )
        return None

    def _read(
        self, step: int, select: Callable[[Manifest, int], dict[str, jax.ShapeDtypeStruct]]
    ) -> dict[str, jax.Array]:
        """Raises `DamagedCheckpointError` on every process if one of them finds damage."""
        directory = self.directory / str(step)
        damage = None
        try:
            manifest = Manifest.read(directory)
            arrays = arrays_lib.read(directory / _STATE, select(manifest, step))
        except DamagedCheckpointError as error:
            damage = error
        _agree(directory, damage)
        digests = digest.fetch(digest.dispatch(arrays))
        bad = [name for name in arrays if digests[name].value != manifest.arrays[name].digest]
        if bad:
            damage = DamagedCheckpointError(
                f"checkpoint {directory}: {some(bad)} differs from what was saved"
            )
        _agree(directory, damage)
        return arrays

    def _make_directory(self) -> None:
        """Creates the directory, and removes unfinished steps of an earlier run."""
        failure = None
        try:
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                steps.delete_leftovers(self.directory)
        except OSError as error:
            failure = error
        if any_process(failure is not None):
            raise CheckpointError(
                f"cannot write to {self.directory}: {failure or 'see the first process'}"
            ) from failure

    def _score_of(self, step: int) -> float | None:
        """The step's `best_metric`; None if it was not measured or the manifest is damaged."""
        if self._best_metric is None:
            return None
        try:
            return Manifest.read(self.directory / str(step)).metrics.get(self._best_metric)
        except DamagedCheckpointError:
            return None


def _make_writer(barrier: CommitBarrier) -> ocp.AsyncCheckpointer:
    options = ocp.AsyncOptions(
        barrier_sync_fn=barrier,
        # In the background, Orbax waits five minutes for a directory that cannot be created.
        create_directories_asynchronously=False,
    )
    items = ocp.CompositeCheckpointHandler(
        # Trained weights hardly compress, and compressing costs more time than writing.
        state=ocp.PyTreeCheckpointHandler(use_compression=False),
        manifest=ocp.JsonCheckpointHandler(filename=FILENAME),
        composite_options=ocp.CompositeOptions(async_options=options),
    )
    return ocp.AsyncCheckpointer(items, async_options=options)


def _agree(directory: epath.Path, damage: DamagedCheckpointError | None) -> None:
    """Raises `DamagedCheckpointError` in every process if one process found damage."""
    if any_process(damage is not None):
        raise damage or DamagedCheckpointError(
            f"checkpoint {directory}: another process cannot read it"
        )


def _one_local_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
