"""The barrier at which processes that write one checkpoint wait for each other."""

from __future__ import annotations

import itertools

import jax
import orbax.checkpoint as ocp

_instances = itertools.count()
_ARRIVED = "arrived"
_PHASES = 3  # Orbax waits after writing and after committing; one is spare


class CommitBarrier:
    """A barrier over the coordination service that a failed process can break.

    Orbax calls it in its background thread, as `AsyncOptions.barrier_sync_fn`. With Orbax's default
    barrier, a full disk of one process makes the others wait until a timeout of 20 minutes.
    """

    def __init__(self) -> None:
        self._name = f"ssl_jax/checkpoint/{next(_instances)}"
        self._round = self._phase = 0

    def start(self) -> None:
        """Begins the next save; every process calls it once per save."""
        self._round, self._phase = self._round + 1, 0

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Waits for all processes.

        Raises:
            RuntimeError: a process has called `fail`; the message is its reason.
        """
        del key  # the processes arrive in the same order
        self._phase += 1
        client = ocp.multihost.get_jax_distributed_client()
        if jax.process_index() == 0:
            answers = {
                rank: client.blocking_key_value_get(self._key(self._phase, rank), timeout_ms)
                for rank in range(1, jax.process_count())
            }
            failures = [
                f"process {rank}: {answer}"
                for rank, answer in answers.items()
                if answer != _ARRIVED
            ]
            result = "; ".join(failures) or _ARRIVED
            self._set(self._phase, result)
        else:
            self._set(self._phase, _ARRIVED)
            result = client.blocking_key_value_get(self._key(self._phase, 0), timeout_ms)
        if result != _ARRIVED:
            raise RuntimeError(result)

    def fail(self, reason: str) -> None:
        """Tells the other processes that this process will not arrive."""
        if jax.process_count() > 1:
            for phase in range(1, _PHASES + 1):
                self._set(phase, reason)

    def _key(self, phase: int, rank: int) -> str:
        return f"{self._name}/{self._round}/{phase}/{rank}"

    def _set(self, phase: int, value: str) -> None:
        client = ocp.multihost.get_jax_distributed_client()
        key = self._key(phase, jax.process_index())
        client.key_value_set(key, value, allow_overwrite=True)
