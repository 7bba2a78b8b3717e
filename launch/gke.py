"""Trains on TPU slices of a GKE cluster, as a JobSet.

    python launch/gke.py image  --image=REGISTRY/ssl_jax
    python launch/gke.py apply  --name=simclr --accelerator=v5e:4x8 --image=REGISTRY/ssl_jax \\
        --config=simclr:imagenet --workdir=gs://bucket/runs/simclr -- --config.seed=1
    python launch/gke.py status --name=simclr
    python launch/gke.py logs   --name=simclr [--worker=3 | --worker=all] [--follow]
    python launch/gke.py delete --name=simclr

It needs Python, git and `kubectl` (`image` needs `docker`), no JAX. `image` builds
`launch/Dockerfile` from the archive of a commit (HEAD, with nothing uncommitted) and pushes it
under the commit's name; `apply` runs that image, so that is the code which runs. `render` prints
what `apply` applies: `launch/gke_jobset.yaml`, filled in. `--dry_run` prints the commands and runs
none; what is not committed it only notes.

What happens when a pod ends depends on its exit code and on how many hosts there are.

- Several hosts: all depend on each other, so all start again. Preempted or drained nodes and exit
  code 143 do not count; anything else counts towards `--max_restarts`. An error in a config counts
  too: the others' exit codes do not tell whether a peer failed or was taken away.
- One host, and every cell of a sweep: the pod starts again. Preemption and 143 do not count, deaths
  by signal count towards `--max_restarts`, and after exit code 1 or 2, an error that would come
  again, nothing is started again.

`--slices=4` trains on four slices together (multislice). `--sweep_cells=12 --parallel=4` runs the
cells of a sweep, `ssl_jax sweep --cell=N`, each on a slice of one host, four at a time;
the cell's number is JOB_COMPLETION_INDEX.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import string
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # nothing is installed here

from launch import buckets
from launch.commit import ROOT, Commit
from launch.shell import Command, execute, rehearse, show
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu_slices

TEMPLATE = ROOT / "launch" / "gke_jobset.yaml"
_NULL = re.compile(r"^.*: null( +#.*)?\n", re.MULTILINE)
_ERRORS = [1, 2]  # exit codes of what would come again
_SAVED = [143]  # of what was told to stop, and has saved


def manifest(given: argparse.Namespace, commit: Commit) -> str:
    """The JobSet of a run.

    Args:
      given: the flags of `apply`.
      commit: the code of the image.

    Raises:
      UserError: flags that do not fit each other.
    """
    slice_ = tpu_slices.parse(given.accelerator)
    sweep = given.sweep_cells is not None
    _check(given, slice_)
    alone = slice_.hosts * given.slices == 1
    fills = {
        "name": given.name,
        "namespace": given.namespace,
        "annotations": _annotations(commit, exclusive=not alone),
        "slices": given.slices,
        "completions": given.sweep_cells if sweep else slice_.hosts,
        "parallelism": (given.parallel or 1) if sweep else slice_.hosts,
        "grace_seconds": given.grace_seconds,
        "service_account": given.service_account,
        "host_network": True if given.slices > 1 else None,  # faster between slices
        "dns_policy": "ClusterFirstWithHostNet" if given.slices > 1 else None,
        "node_selector": _node_selector(given, slice_),
        "tolerations": _tolerations(given.spot),
        "image": _image(given.image, commit),
        "args": _arguments(given, commit.check_config(given.config)),
        "host_chips": slice_.host_chips,
        **(_restart_alone(given, sweep=sweep) if alone else _restart_together(given)),
        **_volumes(given.mount),
    }
    text = string.Template(TEMPLATE.read_text())
    return _NULL.sub("", text.substitute({key: json.dumps(fill) for key, fill in fills.items()}))


def _check(given: argparse.Namespace, slice_: tpu_slices.Slice) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", given.name):
        raise UserError(  # names of Jobs and pods are made from it, with at most 63 characters
            f"--name={given.name}: small letters, digits and hyphens, up to 40, a letter first"
        )
    least = dict(slices=1, parallel=1, sweep_cells=1, max_restarts=0, grace_seconds=1)
    for name, bound in least.items():
        number = getattr(given, name)
        if number is not None and number < bound:
            raise UserError(f"--{name}={number}: at least {bound}")
    if given.parallel is not None and given.sweep_cells is None:
        raise UserError(
            f"--parallel={given.parallel} is how many cells of a sweep run at a time; say how many "
            "it has by --sweep_cells, or leave it out"
        )
    if given.slices > 1 and slice_.hosts == 1:
        raise UserError(
            f"--slices={given.slices}: {slice_} has one host, and GKE joins only slices of several"
        )
    if given.sweep_cells is not None and (slice_.hosts > 1 or given.slices > 1):
        single = [str(one) for one in slice_.generation.slices if one.hosts == 1]
        raise UserError(
            f"--sweep_cells: a cell runs on one host, {slice_} has {slice_.hosts * given.slices}; "
            f"use {' or '.join(single)}"
        )


def _annotations(commit: Commit, *, exclusive: bool) -> dict[str, str]:
    found = {"ssl-jax/commit": commit.sha}
    if exclusive:  # a Job gets a node pool to itself: the pools are the slices
        found["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
    return found


def _node_selector(given: argparse.Namespace, slice_: tpu_slices.Slice) -> dict[str, str]:
    spot = {"cloud.google.com/gke-spot": "true"} if given.spot else {}
    return {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": slice_.shape,
        **spot,
    }


def _tolerations(spot: bool) -> list[dict[str, str]]:
    keys = ["google.com/tpu", *(["cloud.google.com/gke-spot"] if spot else [])]
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def _image(image: str, commit: Commit) -> str:
    """With the commit's name for a tag, unless it has a tag or a digest."""
    tagged = ":" in image.rpartition("/")[2]
    return image if tagged else f"{image}:{commit.short}"


def _arguments(given: argparse.Namespace, config: str) -> list[str]:
    """Of the image, which begins with `python -m ssl_jax`."""
    command, cell = "train", []
    if given.sweep_cells is not None:
        command, cell = "sweep", ["--cell=$(JOB_COMPLETION_INDEX)"]
    extra = [argument.replace("$(", "$$(") for argument in given.extra]  # else Kubernetes' own
    return [command, f"--config={config}", f"--workdir={given.workdir}", *cell, *extra]


def _restart_together(given: argparse.Namespace) -> dict[str, Any]:
    """Any pod's end ends its Job, and with it all: the JobSet starts everything again."""
    return {
        "max_restarts": given.max_restarts,
        "restart_rules": [
            {
                "name": "taken",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
        "backoff_limit": 0,
        "backoff_limit_per_index": None,
        "pod_rules": [_disrupted("FailJob"), _exits("FailJob", _SAVED)],
    }


def _restart_alone(given: argparse.Namespace, *, sweep: bool) -> dict[str, Any]:
    """The Job starts its pods again, each for itself."""
    return {
        "max_restarts": 0,
        "restart_rules": [
            {"name": "error", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        ],
        "backoff_limit": None if sweep else given.max_restarts,
        "backoff_limit_per_index": given.max_restarts if sweep else None,
        "pod_rules": [
            _disrupted("Ignore"),
            _exits("Ignore", _SAVED),
            _exits("FailIndex" if sweep else "FailJob", _ERRORS),
        ],
    }


def _disrupted(action: str) -> dict[str, Any]:
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _exits(action: str, codes: list[int]) -> dict[str, Any]:
    exits = {"containerName": "train", "operator": "In", "values": codes}
    return {"action": action, "onExitCodes": exits}


def _volumes(mounts: list[str]) -> dict[str, Any]:
    """Buckets, by GKE's driver for Cloud Storage FUSE."""
    volumes, places = [], []
    for number, mount in enumerate(mounts):
        bucket, path = buckets.split_mount(mount)
        name = f"bucket-{number}"
        attributes = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
        driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}
        volumes.append({"name": name, "csi": {**driver, "volumeAttributes": attributes}})
        places.append({"name": name, "mountPath": path, "readOnly": True})
    return {
        "volumes": volumes,
        "volume_mounts": places,
        "pod_annotations": {"gke-gcsfuse/volumes": "true"} if mounts else {},
    }


def render(given: argparse.Namespace) -> int:
    print(manifest(given, _commit(given)), end="")
    return 0


def apply(given: argparse.Namespace) -> int:
    text = manifest(given, _commit(given))
    command = _kubectl(given, "apply", "--filename=-", text=text)
    done = (rehearse() if given.dry_run else execute)(command)
    if done.code:
        line = (done.err.strip().splitlines() or [f"exit code {done.code}"])[-1]
        if "immutable" in line:
            line = f"there is a JobSet {given.name} already; delete it, or choose another --name"
        if 'no matches for kind "JobSet"' in line:
            line = f"{line}; install JobSet in the cluster"
        raise UserError(line.removeprefix("error: "))
    print(done.out, end="")
    return 0


def status(given: argparse.Namespace) -> int:
    code = _show(_kubectl(given, "get", "jobset", given.name), given)
    pods = _kubectl(given, "get", "pods", f"--selector={_selector(given)}", "--output=wide")
    return code or _show(pods, given)


def logs(given: argparse.Namespace) -> int:
    one = f",jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index={given.worker}"
    several = ("--prefix", "--max-log-requests=1000")
    flags = (f"--selector={_selector(given)}{'' if given.worker == 'all' else one}",)
    flags += (*(several if given.worker == "all" else ()), f"--tail={given.lines}")
    flags += ("--follow",) if given.follow else ()
    return _show(_kubectl(given, "logs", "--container=train", *flags), given)


def delete(given: argparse.Namespace) -> int:
    return _show(_kubectl(given, "delete", "jobset", given.name, "--ignore-not-found"), given)


def image(given: argparse.Namespace) -> int:
    """Builds the image of a commit, and pushes it."""
    commit = _commit(given)
    name = _image(given.image, commit)
    build = ("docker", "build", "--file=launch/Dockerfile", "--build-arg=ACCELERATOR=tpu")
    commands = (
        Command((*build, f"--tag={name}", "-"), source=commit.archive_command()),
        Command(("docker", "push", name)),
    )
    for command in commands:
        if code := _show(command, given):
            return code
    return 0


def _commit(given: argparse.Namespace) -> Commit:
    return Commit.find(
        given.commit, allow_uncommitted=given.allow_uncommitted, dry_run=given.dry_run
    )


def _selector(given: argparse.Namespace) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={given.name}"


def _kubectl(given: argparse.Namespace, *arguments: str, text: str | None = None) -> Command:
    context = (f"--context={given.context}",) if given.context else ()
    where = (f"--namespace={given.namespace}", *context)
    return Command(("kubectl", *arguments, *where), text=text)


def _show(command: Command, given: argparse.Namespace) -> int:
    if given.dry_run:
        print(command, flush=True)
        return 0
    return 1 if show(command) else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = (image, render, apply, status, logs, delete)
    names = [action.__name__ for action in actions]
    commands = parser.add_subparsers(dest="action", required=True, metavar="|".join(names))
    for name in names:
        _add_flags(commands.add_parser(name), name)
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    given = parser.parse_args(argv[:at])
    given.extra = argv[at + 1 :]
    if given.extra and given.action not in ("render", "apply"):
        parser.error("only render and apply take arguments after --")
    return given


def _add_flags(parser: argparse.ArgumentParser, action: str) -> None:
    flag = parser.add_argument
    flag("--dry_run", action="store_true", help="print the commands, run none")
    if action in ("image", "render", "apply"):
        flag("--image", required=True, help="where it lies; its tag is the commit, if it has none")
        flag("--commit", default="HEAD", help="what to run")
        flag("--allow_uncommitted", action="store_true", help="run HEAD although files changed")
    if action == "image":
        return
    flag("--name", required=True, help="of the JobSet")
    flag("--namespace", default="default")
    flag("--context", help="of kubectl; default: the current one")
    if action == "logs":
        flag("--worker", default="0", help="a number, of the first slice, or all")
        flag("--lines", type=int, default=100)
        flag("--follow", action="store_true")
    if action not in ("render", "apply"):
        return
    flag("--accelerator", required=True, help="v5e:4x8, or v5litepod-32, which is the same")
    flag("--config", required=True, help="NAME or FILE.py, with :VARIANT if wanted")
    flag("--workdir", required=True, help="gs://BUCKET/PATH")
    flag("--slices", type=int, default=1, help="that train together")
    flag("--spot", action="store_true", help="on nodes that may be taken away")
    flag("--max_restarts", type=int, default=10)
    flag("--grace_seconds", type=int, default=300, help="to save in, after SIGTERM")
    flag("--service_account", help="of Kubernetes, with access to the buckets")
    flag("--mount", action="append", default=[], metavar="BUCKET:/PATH", help="mount a bucket")
    flag("--sweep_cells", type=int, help="--config is a sweep of so many cells")
    flag("--parallel", type=int, help="cells at a time; default: 1")


def main() -> int:
    given = _parse_arguments()
    try:
        if given.action in ("render", "apply"):
            buckets.check_workdir(given.workdir, "a pod")
        return globals()[given.action](given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
