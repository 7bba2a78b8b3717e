"""Trains on TPU slices of a GKE cluster, as a JobSet.

    python launch/gke.py image  --image=REGISTRY/ssl_jax
    python launch/gke.py apply  --name=simclr --accelerator=v5e:4x8 --image=REGISTRY/ssl_jax \\
        --config=simclr:imagenet --workdir=gs://bucket/runs/simclr -- --config.seed=1
    python launch/gke.py status --name=simclr
    python launch/gke.py logs   --name=simclr [--worker=3 | --worker=all] [--follow]
    python launch/gke.py delete --name=simclr

The launcher needs Python, git and `kubectl` (`image` needs `docker`), but not JAX. `image` builds
`launch/Dockerfile` from the archive of a commit (HEAD, without uncommitted changes) and pushes it
with the commit as the tag. `apply` runs the code in that image. `render` prints the manifest that
`apply` applies: `launch/gke_jobset.yaml` with its variables filled in. `--dry_run` prints the
commands without executing them, and reports uncommitted changes instead of refusing them.

When a pod ends, its exit code and the number of hosts decide what is restarted.

- Several hosts: all hosts depend on each other, so all are restarted. Preempted or drained nodes
  and exit code 143 do not count; all other exits count towards `--max_restarts`. An error in a
  config counts too, because the exit codes of the other hosts do not show whether a peer failed or
  was preempted.
- One host, and every cell of a sweep: the pod is restarted. Preemption and 143 do not count.
  Deaths by signal count towards `--max_restarts`. After exit code 1 or 2, an error that would
  occur again, nothing is restarted.

`--slices=4` trains on four slices together (multislice). `--sweep_cells=12 --parallel=4` runs the
cells of a sweep with `ssl_jax sweep --cell=N`, each on a slice of one host, four at a time. The
number of the cell is JOB_COMPLETION_INDEX.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import string
import sys
from typing import Any

# The repository does not have to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import buckets
from launch.commit import ROOT, Commit
from launch.shell import Command, execute, rehearse, show
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu_slices

TEMPLATE = ROOT / "launch" / "gke_jobset.yaml"
_NULL = re.compile(r"^.*: null( +#.*)?\n", re.MULTILINE)
_ERRORS = [1, 2]  # exit codes of errors that would occur again
_SAVED = [143]  # exit code after SIGTERM, when the checkpoint is saved


def manifest(arguments: argparse.Namespace, commit: Commit) -> str:
    """The JobSet of a run.

    Args:
      arguments: the flags of `apply`.
      commit: the code of the image.

    Raises:
      UserError: flags are out of range or contradict each other.
    """
    slice_ = tpu_slices.parse(arguments.accelerator)
    sweep = arguments.sweep_cells is not None
    _check(arguments, slice_)
    single_host = slice_.hosts * arguments.slices == 1
    variables = {
        "name": arguments.name,
        "namespace": arguments.namespace,
        "annotations": _annotations(commit, exclusive=not single_host),
        "slices": arguments.slices,
        "completions": arguments.sweep_cells if sweep else slice_.hosts,
        "parallelism": (arguments.parallel or 1) if sweep else slice_.hosts,
        "grace_seconds": arguments.grace_seconds,
        "service_account": arguments.service_account,
        "host_network": True if arguments.slices > 1 else None,  # faster between slices
        "dns_policy": "ClusterFirstWithHostNet" if arguments.slices > 1 else None,
        "node_selector": _node_selector(arguments, slice_),
        "tolerations": _tolerations(arguments.spot),
        "image": _image(arguments.image, commit),
        "args": _arguments(arguments, commit.check_config(arguments.config)),
        "host_chips": slice_.host_chips,
        **(_restart_pods(arguments, sweep=sweep) if single_host else _restart_all(arguments)),
        **_volumes(arguments.mount),
    }
    text = string.Template(TEMPLATE.read_text())
    values = {name: json.dumps(value) for name, value in variables.items()}
    return _NULL.sub("", text.substitute(values))


def _check(arguments: argparse.Namespace, slice_: tpu_slices.Slice) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", arguments.name):
        raise UserError(  # the names of Jobs and pods extend it to at most 63 characters
            f"--name={arguments.name} is not allowed: at most 40 lower-case letters, digits and "
            "hyphens, the first a letter"
        )
    minimums = dict(slices=1, parallel=1, sweep_cells=1, max_restarts=0, grace_seconds=1)
    for name, minimum in minimums.items():
        number = getattr(arguments, name)
        if number is not None and number < minimum:
            raise UserError(f"--{name}={number} is not allowed: at least {minimum}")
    if arguments.parallel is not None and arguments.sweep_cells is None:
        raise UserError(
            f"--parallel={arguments.parallel} needs --sweep_cells, the number of cells of "
            "the sweep; set it, or remove --parallel"
        )
    if arguments.slices > 1 and slice_.hosts == 1:
        raise UserError(
            f"--slices={arguments.slices}: {slice_} has one host; GKE connects only slices "
            "of several hosts"
        )
    if arguments.sweep_cells is not None and (slice_.hosts > 1 or arguments.slices > 1):
        single_hosts = [str(other) for other in slice_.generation.slices if other.hosts == 1]
        raise UserError(
            f"--sweep_cells: a cell runs on one host, {slice_} has "
            f"{slice_.hosts * arguments.slices}; use {' or '.join(single_hosts)}"
        )


def _annotations(commit: Commit, *, exclusive: bool) -> dict[str, str]:
    annotations = {"ssl-jax/commit": commit.sha}
    if exclusive:  # one node pool, which is one slice, for each Job
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
    return annotations


def _node_selector(arguments: argparse.Namespace, slice_: tpu_slices.Slice) -> dict[str, str]:
    spot = {"cloud.google.com/gke-spot": "true"} if arguments.spot else {}
    return {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": slice_.shape,
        **spot,
    }


def _tolerations(spot: bool) -> list[dict[str, str]]:
    keys = ["google.com/tpu", *(["cloud.google.com/gke-spot"] if spot else [])]
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def _image(image: str, commit: Commit) -> str:
    """The image with the commit as its tag, unless it has a tag or a digest."""
    tagged = ":" in image.rpartition("/")[2]
    return image if tagged else f"{image}:{commit.short}"


def _arguments(arguments: argparse.Namespace, config: str) -> list[str]:
    """Arguments for the image, whose entry point is `python -m ssl_jax`."""
    command, cell = "train", []
    if arguments.sweep_cells is not None:
        command, cell = "sweep", ["--cell=$(JOB_COMPLETION_INDEX)"]
    extra = [word.replace("$(", "$$(") for word in arguments.extra]  # Kubernetes expands $(NAME)
    return [command, f"--config={config}", f"--workdir={arguments.workdir}", *cell, *extra]


def _restart_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """When a pod ends, its Job fails and the JobSet restarts all pods."""
    return {
        "max_restarts": arguments.max_restarts,
        "restart_rules": [
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
        "backoff_limit": 0,
        "backoff_limit_per_index": None,
        "pod_rules": [_disrupted("FailJob"), _exits("FailJob", _SAVED)],
    }


def _restart_pods(arguments: argparse.Namespace, *, sweep: bool) -> dict[str, Any]:
    """The Job restarts each pod on its own."""
    return {
        "max_restarts": 0,
        "restart_rules": [
            {"name": "error", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        ],
        "backoff_limit": None if sweep else arguments.max_restarts,
        "backoff_limit_per_index": arguments.max_restarts if sweep else None,
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
    """Volumes of buckets, mounted by GKE's driver for Cloud Storage FUSE."""
    volumes, volume_mounts = [], []
    for number, mount in enumerate(mounts):
        bucket, path = buckets.split_mount(mount)
        name = f"bucket-{number}"
        attributes = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
        driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}
        volumes.append({"name": name, "csi": {**driver, "volumeAttributes": attributes}})
        volume_mounts.append({"name": name, "mountPath": path, "readOnly": True})
    return {
        "volumes": volumes,
        "volume_mounts": volume_mounts,
        "pod_annotations": {"gke-gcsfuse/volumes": "true"} if mounts else {},
    }


def render(arguments: argparse.Namespace) -> int:
    """Prints the manifest."""
    print(manifest(arguments, _commit(arguments)), end="")
    return 0


def apply(arguments: argparse.Namespace) -> int:
    """Applies the manifest to the cluster."""
    text = manifest(arguments, _commit(arguments))
    command = _kubectl(arguments, "apply", "--filename=-", text=text)
    result = (rehearse() if arguments.dry_run else execute)(command)
    if result.code:
        line = (result.err.strip().splitlines() or [f"exit code {result.code}"])[-1]
        if "immutable" in line:
            line = f"JobSet {arguments.name} exists already; delete it, or choose another --name"
        if 'no matches for kind "JobSet"' in line:
            line = f"{line}; install JobSet in the cluster"
        raise UserError(line.removeprefix("error: "))
    print(result.out, end="")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Shows the JobSet and its pods."""
    code = _show(_kubectl(arguments, "get", "jobset", arguments.name), arguments)
    pods = _kubectl(arguments, "get", "pods", f"--selector={_selector(arguments)}", "--output=wide")
    return code or _show(pods, arguments)


def logs(arguments: argparse.Namespace) -> int:
    """Shows the end of the log of one pod, or of all pods."""
    selector, several_pods = _selector(arguments), ()
    if arguments.worker == "all":
        several_pods = ("--prefix", "--max-log-requests=1000")
    else:
        selector += ",jobset.sigs.k8s.io/job-index=0"
        selector += f",batch.kubernetes.io/job-completion-index={arguments.worker}"
    flags = (f"--selector={selector}", *several_pods, f"--tail={arguments.lines}")
    flags += ("--follow",) if arguments.follow else ()
    return _show(_kubectl(arguments, "logs", "--container=train", *flags), arguments)


def delete(arguments: argparse.Namespace) -> int:
    """Deletes the JobSet."""
    return _show(
        _kubectl(arguments, "delete", "jobset", arguments.name, "--ignore-not-found"), arguments
    )


def image(arguments: argparse.Namespace) -> int:
    """Builds and pushes the image of a commit."""
    commit = _commit(arguments)
    name = _image(arguments.image, commit)
    build = ("docker", "build", "--file=launch/Dockerfile", "--build-arg=ACCELERATOR=tpu")
    commands = (
        Command((*build, f"--tag={name}", "-"), source=commit.archive_command()),
        Command(("docker", "push", name)),
    )
    for command in commands:
        if code := _show(command, arguments):
            return code
    return 0


def _commit(arguments: argparse.Namespace) -> Commit:
    return Commit.find(
        arguments.commit, allow_uncommitted=arguments.allow_uncommitted, dry_run=arguments.dry_run
    )


def _selector(arguments: argparse.Namespace) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={arguments.name}"


def _kubectl(arguments: argparse.Namespace, *words: str, text: str | None = None) -> Command:
    context = (f"--context={arguments.context}",) if arguments.context else ()
    return Command(("kubectl", *words, f"--namespace={arguments.namespace}", *context), text=text)


def _show(command: Command, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
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
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    arguments.extra = argv[end + 1 :]
    if arguments.extra and arguments.action not in ("render", "apply"):
        parser.error("only render and apply take arguments after --")
    return arguments


def _add_flags(parser: argparse.ArgumentParser, action: str) -> None:
    flag = parser.add_argument
    flag("--dry_run", action="store_true", help="print the commands without executing them")
    if action in ("image", "render", "apply"):
        flag("--image", required=True, help="REGISTRY/NAME; default tag: the commit")
        flag("--commit", default="HEAD", help="commit to run")
        flag("--allow_uncommitted", action="store_true", help="run HEAD without the changes")
    if action == "image":
        return
    flag("--name", required=True, help="name of the JobSet")
    flag("--namespace", default="default")
    flag("--context", help="kubectl context; default: the current one")
    if action == "logs":
        flag("--worker", default="0", help="number of a worker of the first slice, or all")
        flag("--lines", type=int, default=100)
        flag("--follow", action="store_true")
    if action not in ("render", "apply"):
        return
    flag("--accelerator", required=True, help="e.g. v5e:4x8, or equally v5litepod-32")
    flag("--config", required=True, help="NAME or FILE.py, optionally with :VARIANT")
    flag("--workdir", required=True, help="gs://BUCKET/PATH")
    flag("--slices", type=int, default=1, help="slices that train together")
    flag("--spot", action="store_true", help="use spot nodes, which may be preempted")
    flag("--max_restarts", type=int, default=10)
    flag("--grace_seconds", type=int, default=300, help="time to save after SIGTERM")
    flag("--service_account", help="Kubernetes account with access to the buckets")
    flag("--mount", action="append", default=[], metavar="BUCKET:/PATH", help="mount a bucket")
    flag("--sweep_cells", type=int, help="number of cells of the sweep --config")
    flag("--parallel", type=int, help="cells at a time; default: 1")


def main() -> int:
    arguments = _parse_arguments()
    try:
        if arguments.action in ("render", "apply"):
            buckets.check_workdir(arguments.workdir, "a pod")
        return globals()[arguments.action](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
