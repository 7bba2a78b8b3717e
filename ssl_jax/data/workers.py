"""Worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def init_worker() -> None:
    """Runs first in every worker process."""
    # The accelerators belong to the process that trains; a second one could not even open a TPU.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    # Ctrl-C and a cluster's SIGTERM reach the whole process group, but the process that started
    # this one still needs its work until it has saved; it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _follow_parent() -> None:
    """Ends this process when its parent ends, also if the parent was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
