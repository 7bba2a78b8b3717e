"""Starts runs of several processes, and lets the processes agree on values."""

from __future__ import annotations

import glob
import importlib.util
import itertools
import logging
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT = "SSL_JAX_HEARTBEAT_SECONDS"
_METADATA = "http://{host}/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def initialize() -> bool:
    """Joins the other processes of this run, if there are any; call it before any other use of JAX.

    Processes are found through, in this order: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, as `launch/multiprocess_local.py` sets them; a SLURM step or an Open MPI job
    of more than one task; a TPU slice of more than one worker (GKE or Compute Engine), or several
    slices. In anything else nothing happens. A signal handler for SIGTERM that the program has
    installed stays: `jax.distributed` would replace it by its own.

    Returns:
        Whether the run has several processes.

    Raises:
        UserError: only some of the three variables are set, or a number among them is none.
    """
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    skip_absent_tpu()
    order_cpu_collectives()
    arguments = _explicit_arguments(os.environ)
    if arguments is None:
        if not is_multi_process(os.environ):
            return False
        arguments = {}
    if _HEARTBEAT in os.environ:
        arguments["heartbeat_timeout_seconds"] = int(os.environ[_HEARTBEAT])
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(**arguments)
    if on_main_thread and handler is not None:
        signal.signal(signal.SIGTERM, handler)
    return jax.process_count() > 1


_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def skip_absent_tpu() -> None:
    """Keeps JAX from looking for TPUs where libtpu is installed but there are none.

    libtpu is also what `ssl_jax aot` compiles with, so machines without TPUs have it. JAX starts it
    before any other platform, and it then complains on standard error. A platform cannot be left
    out, so the others are named; where that might hide one, nothing is done. `JAX_PLATFORMS` stays
    in force. To be called before the backend starts.
    """
    if jax.config.jax_platforms or not tpu.is_installed() or _has_tpu(os.environ):
        return
    if not any(os.path.exists(device) for device in _GPU_DEVICES):
        jax.config.update("jax_platforms", "cpu")
    elif any(importlib.util.find_spec(plugin) for plugin in _CUDA_PLUGINS):
        jax.config.update("jax_platforms", "cuda,cpu")


def _has_tpu(environ: dict[str, str] | os._Environ) -> bool:
    """Whether this machine has TPU chips, or its environment says that it should."""
    names = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES",
             "TPU_ACCELERATOR_TYPE", "JAX_FORCE_TPU_INIT")  # fmt: skip
    return _has_tpu_device() or any(environ.get(name) for name in names)


def _has_tpu_device() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


_CONCURRENT = "--xla_cpu_enable_concurrency_optimized_scheduler="


def order_cpu_collectives() -> None:
    """Makes programs for several CPU devices run their collectives one after the other.

    XLA's default on CPUs starts whatever is ready. Two collectives of one program that do not
    depend on each other then meet in different orders on different devices, which share few
    threads, and wait for each other for ever (seen with 8 virtual devices on 2 cores, jax 0.10).
    To be called before the backend starts; with one device, or other platforms, it changes nothing.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    several = (
        "xla_force_host_platform_device_count" in flags
        or jax.config.jax_num_cpu_devices > 1
        or any(name in os.environ for name in _EXPLICIT)
    )
    if several and _CONCURRENT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CONCURRENT}false".strip()


def _explicit_arguments(environ: dict[str, str] | os._Environ) -> dict | None:
    """Arguments of `jax.distributed.initialize` if the environment spells them out."""
    address, processes, process = (environ.get(name) for name in _EXPLICIT)
    if processes is None and process is None:
        return None  # an address alone leaves the rest to be detected
    if address is None or processes is None or process is None:
        missing = [name for name in _EXPLICIT if name not in environ]
        raise UserError(f"{' and '.join(missing)} not set: set all of {', '.join(_EXPLICIT)}")
    try:
        numbers = {"num_processes": int(processes), "process_id": int(process)}
    except ValueError:
        raise UserError(
            f"JAX_NUM_PROCESSES={processes!r}, JAX_PROCESS_ID={process!r}: both are integers"
        ) from None
    # Otherwise jax would take the local rank of a surrounding SLURM step for a device number.
    return {
        "coordinator_address": address,
        "cluster_detection_method": "deactivate",
        **numbers,
    }


def is_multi_process(environ: dict[str, str] | os._Environ) -> bool:
    """Whether the environment is that of one process among several, as far as JAX can detect."""
    if "JAX_COORDINATOR_ADDRESS" in environ:
        return True
    # SLURM_NTASKS is also set inside a batch script or an allocation, where there is one process;
    # the step's own count is not.
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    if any(int(environ.get(name) or 1) > 1 for name in tasks):
        return True
    platforms = (jax.config.jax_platforms or "").split(",")
    return platforms[0] in ("", "tpu") and _tpu_workers(environ) > 1


def _tpu_workers(environ: dict[str, str] | os._Environ) -> int:
    """Workers in this TPU slice: from the environment (GKE), or from the metadata server."""
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environ.get(name):
            return len(environ[name].split(","))
    if not _has_tpu_device() or "TPU_SKIP_MDS_QUERY" in environ:
        return 1
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        _METADATA.format(host=host), headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return len(response.read().decode().split(","))
    except (urllib.error.URLError, OSError):
        return 1


def leave(code: int) -> NoReturn:
    """Ends the program with an exit code, without waiting for other processes of the run.

    After an error on one process the others wait for it in a collective; at a plain `sys.exit` JAX
    would wait for them in turn, for minutes. Once this process is gone they end too.
    """
    if jax.process_count() > 1 and code:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


LOST_PROCESS = 128 + signal.SIGABRT
"""Exit code after another process of the run is gone; JAX's heartbeats end a process so, too."""

_OF_ANOTHER = re.compile(
    r"\b(gloo|nccl|peer|socket|heartbeats?|coordination|distributed service)|"
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b",
    re.IGNORECASE,
)


def lost_process(error: BaseException | None) -> str | None:
    """Why another process must be gone if this error ended a step or a save here, else None.

    A process that waits in a collective learns it from the network at once where that tells it
    (Gloo, NCCL), and otherwise from missing heartbeats. Errors of memory or of the program's own,
    which would come again, are none of these.
    """
    while error is not None and jax.process_count() > 1:
        if isinstance(error, jax.errors.JaxRuntimeError) and _OF_ANOTHER.search(str(error)):
            return str(error).strip().splitlines()[0]
        error = error.__cause__
    return None


def any_process(flag: bool) -> bool:
    """True on every process if `flag` is true on one of them.

    Every process must call it at the same point: hosts of one run use it to save and to stop at the
    same step. It waits for the steps that are already dispatched, so call it every few steps, not
    at each.
    """
    if jax.process_count() == 1:
        return bool(flag)
    return bool(multihost_utils.process_allgather(np.asarray(flag, np.int32)).any())


def from_all_processes(numbers: Sequence[int]) -> np.ndarray:
    """Each process's list of (32-bit) integers, on every process: int32 `[processes numbers]`.

    As `any_process`, to be called by all at the same point.
    """
    mine = np.asarray(numbers, np.int32)
    return np.atleast_2d(
        mine if jax.process_count() == 1 else multihost_utils.process_allgather(mine)
    )


def from_first_process(numbers: Sequence[int]) -> list[int]:
    """The first process's list of (32-bit) integers, on every process."""
    if jax.process_count() == 1:
        return list(numbers)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.zeros(length, np.int32)
    if jax.process_index() == 0:
        padded[:] = numbers
    return multihost_utils.broadcast_one_to_all(padded).tolist() if length else []


_texts = itertools.count()
_TEXT_SECONDS = 24 * 3600


def text_from_first_process(text: str) -> str:
    """The first process's text, on every process; to be called by all at the same point.

    It goes through the coordination service, so the others may wait for long: collectives have
    timeouts of seconds on some platforms.
    """
    if jax.process_count() == 1:
        return text
    client = ocp.multihost.get_jax_distributed_client()
    key = f"ssl_jax/text/{next(_texts)}"
    if is_first_process():
        client.key_value_set(key, text)
        return text
    return client.blocking_key_value_get(key, _TEXT_SECONDS * 1000)


def is_first_process() -> bool:
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come here; `name` must be the same on all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
