"""Manages TPU VMs with `gcloud`: commands, states and errors.

A TPU VM is a whole slice; `ssl_jax.hardware.tpu_slices` says how many workers (hosts) it has. Asked
for as a queued resource it waits in the queue until there is capacity; otherwise creating it fails
where there is none.
"""

from __future__ import annotations

import dataclasses
import re

from launch.shell import Command, Result
from ssl_jax.core.errors import UserError
from ssl_jax.hardware.tpu_slices import Slice

READY = frozenset({"READY", "ACTIVE"})
# Of these nothing comes back: the TPU VM has to be deleted and created again.
LOST = frozenset({"PREEMPTED", "TERMINATED", "SUSPENDED", "FAILED", "STOPPED"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVm:
    """One TPU VM, and the commands that have to do with it.

    Attributes:
      name: of the TPU VM, and of its queued resource.
      zone: e.g. us-west4-a.
      slice: what to create; not needed for anything else.
      project: None for gcloud's own default.
      spot: cheaper, and may be taken away at any time.
      queued: asked for as a queued resource.
      runtime_version: software of the workers; None for the slice's own.
      create_flags: more flags for gcloud's `create`.
      ssh_flags: more flags for gcloud's `ssh`.
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
                f"--name={self.name}: small letters, digits and hyphens, up to 63, a letter first"
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
        """Its answer is the state and the accelerator type, with a tab between."""
        fields = "state,acceleratorType"
        if self.queued:
            fields = "state.state,tpu.nodeSpec[0].node.acceleratorType"
        return self._resource("describe", self.name, f"--format=value({fields})")

    def delete(self) -> Command:
        # Of a queued resource --force deletes the TPU VM as well.
        return self._resource("delete", self.name, *(("--force",) if self.queued else ()))

    def ssh(self, script: str, worker: str = "all") -> Command:
        """Runs a bash script on one worker, by its number, or on all of them at once."""
        flags = (f"--worker={worker}", *self.ssh_flags, f"--command={script}")
        return self._gcloud("tpu-vm", "ssh", self.name, *flags)

    def _resource(self, verb: str, *arguments: str) -> Command:
        return self._gcloud("queued-resources" if self.queued else "tpu-vm", verb, *arguments)

    def _gcloud(self, group: str, verb: str, *arguments: str) -> Command:
        project = (f"--project={self.project}",) if self.project else ()
        where = (f"--zone={self.zone}", *project, "--quiet")
        return Command(("gcloud", "compute", "tpus", group, verb, *arguments, *where))


# What is searched for in gcloud's errors, in this order: one message may match several.
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


def kind_of(result: Result) -> str:
    """What kind of error it is: a key of the table above, or `other`."""
    for kind, pattern in _ERRORS:
        if re.search(pattern, result.err, re.IGNORECASE | re.DOTALL):
            return kind
    return "other"


def message_of(result: Result) -> str:
    """The one line of gcloud's error that says what is wrong."""
    found = re.search(r'"message": "((?:[^"\\]|\\.)*)"', result.err)
    if found:
        return found[1].replace('\\"', '"')
    lines = [line.strip() for line in result.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    line = errors[0] if errors else f"exit code {result.code}"
    return re.sub(r"^ERROR: (\(gcloud[\w.-]*\) )?", "", line)


def explain(result: Result, vm: TpuVm) -> UserError:
    """What to tell about an error that trying again will not mend, with the way out."""
    listing = f"gcloud compute tpus accelerator-types list --zone={vm.zone}"
    way_out = {
        "quota": "ask for more quota, or try another --zone or, with a quota of its own, --spot",
        "capacity": "wait in line with --queued, or try another --zone or a smaller slice",
        "zone": f"--zone={vm.zone} is wrong or closed to you: gcloud compute tpus locations list",
        "accelerator": f"what --zone={vm.zone} has: {listing}",
    }.get(kind_of(result))
    message = message_of(result).rstrip(".")
    return UserError(f"{message}; {way_out}" if way_out else message)
