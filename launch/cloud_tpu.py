"""Manages TPU VMs with `gcloud`: commands, states and errors.

A TPU VM is a whole slice; `ssl_jax.hardware.tpu_slices` gives its number of workers (hosts). A
queued resource waits in a queue until there is capacity. Without a queue, creation fails if there
is no capacity.
"""

from __future__ import annotations

import dataclasses
import re

from launch.shell import Command, Result
from ssl_jax.core.errors import UserError
from ssl_jax.hardware.tpu_slices import Slice

READY = frozenset({"READY", "ACTIVE"})
# A TPU VM does not leave these states: it has to be deleted and created again.
LOST = frozenset({"PREEMPTED", "TERMINATED", "SUSPENDED", "FAILED", "STOPPED"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVm:
    """One TPU VM and the `gcloud` commands that manage it.

    Attributes:
      name: of the TPU VM, and of its queued resource.
      zone: e.g. us-west4-a.
      slice: the slice to create; only `create` needs it.
      project: None for gcloud's default.
      spot: cheaper, but may be preempted at any time.
      queued: whether it is a queued resource.
      runtime_version: software of the workers; None for the default of the slice.
      create_flags: additional flags for gcloud's `create`.
      ssh_flags: additional flags for gcloud's `ssh`.
    """

    name: str
    zone: str
    slice: Slice | None = None
    project: str | None = None
    spot: bool = False
    queued: bool = False
    runtime_version: str | None = None
    create_flags: tuple[str, ...] = ()
    ssh_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", self.name):
            raise UserError(
                f"--name={self.name} is not allowed: at most 63 lower-case letters, digits and "
                "hyphens, the first a letter"
            )

    def create(self) -> Command:
        runtime = self.runtime_version or self.slice.runtime_version
        accelerator = f"--accelerator-type={self.slice.accelerator_type}"
        spot = ("--spot",) if self.spot else ()
        if self.queued:
            return self._resource(
                *("create", self.name, f"--node-id={self.name}", accelerator),
                *(f"--runtime-version={runtime}", *spot, *self.create_flags),
            )
        return self._resource(
            "create", self.name, accelerator, f"--version={runtime}", *spot, *self.create_flags
        )

    def describe(self) -> Command:
        """Prints the state and the accelerator type, separated by a tab."""
        fields = "state,acceleratorType"
        if self.queued:
            fields = "state.state,tpu.nodeSpec[0].node.acceleratorType"
        return self._resource("describe", self.name, f"--format=value({fields})")

    def delete(self) -> Command:
        # --force deletes the TPU VM of a queued resource as well.
        return self._resource("delete", self.name, *(("--force",) if self.queued else ()))

    def ssh(self, script: str, worker: str = "all") -> Command:
        """Runs a bash script on the worker with a number, or on all workers at once."""
        flags = (f"--worker={worker}", *self.ssh_flags, f"--command={script}")
        return self._gcloud("tpu-vm", "ssh", self.name, *flags)

    def _resource(self, verb: str, *arguments: str) -> Command:
        return self._gcloud("queued-resources" if self.queued else "tpu-vm", verb, *arguments)

    def _gcloud(self, group: str, verb: str, *arguments: str) -> Command:
        project = (f"--project={self.project}",) if self.project else ()
        location = (f"--zone={self.zone}", *project, "--quiet")
        return Command(("gcloud", "compute", "tpus", group, verb, *arguments, *location))


# Kinds of gcloud errors and their patterns. A message may match several; the first one counts.
_ERRORS = (
    ("quota", r"quota .{0,200}exceeded|quota exceeded|insufficient.{0,20}quota|quota.*exhausted"),
    ("capacity", r"no more capacity|insufficient capacity|not enough capacity|stockout"),
    ("exists", r"ALREADY_EXISTS|already exists"),
    (
        "zone",
        r"PERMISSION_DENIED.{0,80}locations/|location \S+ (is )?not found|unexpected location",
    ),
    ("accelerator", r"accelerator\S* .{0,80}not found|accelerator.{0,80}(invalid|unsupported)"),
    ("absent", r"NOT_FOUND|was not found"),
    (
        "transient",
        r"UNAVAILABLE|DEADLINE_EXCEEDED|\bINTERNAL\b|internal error|\"code\": 1[34]\b|"
        r"HTTPError 5\d\d|timed out|connection (reset|aborted|refused)|unable to find the server|"
        r"temporar",
    ),
)
RETRIED = frozenset({"capacity", "transient"})


def error_kind(result: Result) -> str:
    """The kind of a gcloud error: a key of the table above, or `other`."""
    for kind, pattern in _ERRORS:
        if re.search(pattern, result.err, re.IGNORECASE | re.DOTALL):
            return kind
    return "other"


def error_message(result: Result) -> str:
    """The line of a gcloud error that names the problem."""
    match = re.search(r'"message": "((?:[^"\\]|\\.)*)"', result.err)
    if match:
        return match[1].replace('\\"', '"')
    lines = [line.strip() for line in result.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    line = errors[0] if errors else f"exit code {result.code}"
    return re.sub(r"^ERROR: (\(gcloud[\w.-]*\) )?", "", line)


def user_error(result: Result, vm: TpuVm) -> UserError:
    """The message for an error that a retry does not fix, with what the user can do."""
    listing = f"gcloud compute tpus accelerator-types list --zone={vm.zone}"
    remedy = {
        "quota": "ask for more quota, or try another --zone, or --spot, which has its own quota",
        "capacity": "wait in the queue with --queued, or try another --zone or a smaller slice",
        "zone": f"--zone={vm.zone} does not exist or you have no access to it; zones: "
        "gcloud compute tpus locations list",
        "accelerator": f"accelerators of --zone={vm.zone}: {listing}",
    }.get(error_kind(result))
    message = error_message(result).rstrip(".")
    return UserError(f"{message}; {remedy}" if remedy else message)
