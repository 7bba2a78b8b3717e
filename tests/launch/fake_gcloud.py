"""A `gcloud` that keeps a world of its own in $FAKE_WORLD: a bucket, and TPU VMs of plain folders.

Every call is written to calls.jsonl. `plan.json` may hold, for a verb, what its next calls do
instead of the ordinary thing: `{"create": [{"code": 1, "err": "..."}], ...}`; null is the ordinary
thing. `{"preempt": true}` takes the TPU VM away first, `{"sleep": 60}` waits first, and
`{"until": "finished"}` waits until that word is in the answer. Scripts for workers really run, each
in a home directory of its own.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

WORLD = pathlib.Path(os.environ["FAKE_WORLD"])
BUCKET = WORLD / "bucket"


def read(name, default):
    path = WORLD / name
    return json.loads(path.read_text()) if path.exists() else default


def write(name, value):
    (WORLD / name).write_text(json.dumps(value))


def fail(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)


def planned(verb):
    plan = read("plan.json", {})
    queue = plan.get(verb, [])
    step = queue.pop(0) if queue else None
    write("plan.json", plan)
    return step or {}


def homes(vm):
    return [WORLD / "workers" / str(vm["number"]) / str(i) for i in range(vm["workers"])]


def is_ours(pid):
    """Whether this is a process of a worker, and not another with its number."""
    if not isinstance(pid, int) or pid <= 1:
        return False
    try:
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"supervise.py" in line or b"ssl_jax\0train" in line


def preempt(vm):
    for home in homes(vm):
        for state in home.glob("ssl_jax/*/state.json"):
            found = json.loads(state.read_text())
            for name in ("supervisor", "pid"):
                if is_ours(found.get(name)):
                    os.kill(found[name], signal.SIGKILL)
        shutil.rmtree(home)
    vm["state"] = "SUSPENDED" if vm["queued"] else "PREEMPTED"
    (BUCKET / "go").touch()  # the next one may finish


def on_worker(home, script):
    environment = {**os.environ, "HOME": str(home), "WORKER": home.name}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)


def ssh(vm, flags, step):
    if vm is None or vm["state"] not in ("READY", "ACTIVE"):
        fail("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state")
    wanted = flags["--worker"]
    targets = homes(vm) if wanted == "all" else [homes(vm)[int(wanted)]]
    code = 0
    for home in targets:
        done = on_worker(home, flags["--command"])
        end = time.monotonic() + 100
        while step.get("until", "") not in done.stdout and time.monotonic() < end:
            time.sleep(0.1)
            done = on_worker(home, flags["--command"])
        sys.stderr.write(done.stderr)
        sys.stdout.write(done.stdout)
        code = code or done.returncode
    sys.exit(code)


def storage(verb, arguments):
    path = BUCKET / arguments[-1].partition("gs://bucket/")[2]
    if verb == "cat":
        sys.stdout.buffer.write(path.read_bytes())
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sys.stdin.buffer.read())


def main():
    argv = sys.argv[1:]
    with (WORLD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    if argv[0] == "storage":
        step = planned(f"storage {argv[1]}")
        if "err" in step:
            fail(step["err"], step["code"])
        return storage(argv[1], [one for one in argv if one != "--quiet"])
    _, _, group, verb, name, *rest = argv
    flags = dict((flag.split("=", 1) if "=" in flag else (flag, True)) for flag in rest)
    step = planned(verb)
    vm = read("vm.json", None)
    if step.get("preempt"):
        preempt(vm)
        write("vm.json", vm)
    time.sleep(step.get("sleep", 0))
    if "err" in step:
        fail(step["err"], step["code"])
    if verb == "create":
        number = read("created.json", 0) + 1
        write("created.json", number)
        vm = {
            "number": number,
            "workers": int(os.environ.get("FAKE_WORKERS", "1")),
            "queued": group == "queued-resources",
            "state": "ACTIVE" if group == "queued-resources" else "READY",
            "accelerator": flags["--accelerator-type"],
        }
        for home in homes(vm):
            home.mkdir(parents=True)
        write("vm.json", vm)
    elif vm is None:
        fail(f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource 'projects/p/"
             f"locations/z/nodes/{name}' was not found")  # fmt: skip
    elif verb == "describe":
        print(vm["state"], vm["accelerator"], sep="\t")
    elif verb == "delete":
        if vm["state"] in ("READY", "ACTIVE"):
            preempt(vm)
        write("vm.json", None)
    elif verb == "ssh":
        ssh(vm, flags, step)


main()
