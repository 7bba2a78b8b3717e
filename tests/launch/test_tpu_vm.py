"""The TPU VM launcher against a `gcloud` that plays the cloud; what workers run really runs."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from launch import commit as commit_lib
from launch import tpu_vm
from launch.commit import Commit
from ssl_jax.core.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = os.path.realpath(sys.executable)  # without the virtual environment: it starts faster

# Trains to step 5, and on to 10 once the bucket has the file `go`. Saves into --workdir at every
# step, and writes down from which step it was started, and how.
TRAIN = """
import json, os, pathlib, signal, sys, time
world = pathlib.Path(os.environ["FAKE_WORLD"])
assert sys.argv.pop(1) == "train"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(workdir,) = [a for a in sys.argv if a.startswith("--workdir=gs://")]
saved = world / workdir.removeprefix("--workdir=gs://") / ("step-" + os.environ["WORKER"])
saved.parent.mkdir(parents=True, exist_ok=True)
step = int(saved.read_text()) if saved.exists() else 0
with (world / "starts.jsonl").open("a") as file:
    file.write(json.dumps([os.environ["WORKER"], step, sys.argv[1:]]) + "\\n")
print("arguments:", *sys.argv[1:])
print("continuing from step", step, flush=True)
failing = world / "fail"
if failing.exists():
    code = int(failing.read_text())
    if code == 1 and os.environ["WORKER"] == "1":
        print("error: a bad config")
        sys.exit(1)
    if code == 137:
        failing.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
while step < 10:
    if step < 5 or (world / "bucket" / "go").exists():
        step += 1
        saved.write_text(str(step))
    time.sleep(0.01)
print("finished", flush=True)
"""

SETUP = """
echo "setup $*" >>"$FAKE_WORLD/setup.txt"
mkdir -p ../.venv/bin
ln -sf {python} ../.venv/bin/python
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A checkout with the real launcher, and stand-ins for set-up and training."""
    root = tmp_path_factory.mktemp("repository").resolve() / "ssl_jax"
    shutil.copytree(ROOT / "launch", root / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    for package, module in (("core", "errors"), ("hardware", "tpu_slices")):
        (root / "ssl_jax" / package).mkdir(parents=True)
        for name in ("__init__.py", f"{package}/__init__.py", f"{package}/{module}.py"):
            shutil.copy(ROOT / "ssl_jax" / name, root / "ssl_jax" / name)
    (root / "ssl_jax" / "__main__.py").write_text(TRAIN)
    (root / "launch" / "setup_host.sh").write_text(SETUP.format(python=PYTHON))
    (root / "configs").mkdir()
    (root / "configs" / "tiny.py").touch()
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=first")
    return root


def git(root, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ("git", "-C", str(root), *identity, *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class World:
    """The cloud of one test."""

    def __init__(self, root, folder):
        self.root = root
        self.folder = folder
        self.bucket = folder / "bucket"
        self.bucket.mkdir(parents=True)
        binaries = folder / "bin"
        binaries.mkdir()
        fake = pathlib.Path(__file__).parent / "fake_gcloud.py"
        (binaries / "gcloud").write_text(f'#!/bin/sh\nexec {PYTHON} -S -E "{fake}" "$@"\n')
        (binaries / "gcloud").chmod(0o755)
        (binaries / "python3").symlink_to(PYTHON)

    def plan(self, **verbs):
        (self.folder / "plan.json").write_text(json.dumps(verbs))

    def start(self, action, *options):
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_WORLD": str(self.folder),
            "FAKE_WORKERS": "2" if TWO_WORKERS in options else "1",
        }
        common = ("--name=x", "--zone=us-central2-b")
        return subprocess.Popen(
            [PYTHON, "-S", "launch/tpu_vm.py", action, *common, *options],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, action, *options, code=0):
        process = self.start(action, *options)
        out, err = process.communicate(timeout=200)
        assert process.returncode == code, out + err
        return out + err

    def run(self, *options, code=0):
        return self("run", *RUN, *options, code=code)

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self):
        """What was asked of the cloud, without looks at it and at the bucket."""
        verbs = [call[3] for call in self.calls if call[0] == "compute"]
        return [verb for verb in verbs if verb not in ("describe", "ssh")]


RUN = ("--accelerator=v4-8", "--config=configs/tiny.py:small", "--workdir=gs://bucket/runs/x",
       "--poll_seconds=0.2", "--retry_seconds=0.01")  # fmt: skip
TWO_WORKERS = "--accelerator=v4-16"


@pytest.fixture
def world(repository, tmp_path):
    world = World(repository, tmp_path)
    yield world
    if (tmp_path / "vm.json").exists():
        world("delete")  # ends the processes of its workers


@pytest.mark.slow
def test_preempted_and_created_again_it_goes_on_and_finishes(world):
    # Looks: the set-up, one that finds it running, then the one during which it is taken away.
    world.plan(ssh=[None, {"until": "continuing"}, {"preempt": True}])
    out = world.run(TWO_WORKERS, "--spot", "--mount=data:/data", "--", "--config.seed=3")
    assert world.verbs == ["create", "delete", "create", "delete"]
    assert "the TPU VM was PREEMPTED; next attempt in" in out
    assert out.count(": READY") == 2  # said once, not at every look
    assert "x: finished: gs://bucket/runs/x" in out
    command = (
        "compute tpus tpu-vm create x --accelerator-type=v4-16 --version=tpu-ubuntu2204-base "
        "--spot --zone=us-central2-b --quiet"
    )
    assert [" ".join(call) for call in world.calls if "create" in call] == [command, command]
    for worker in range(2):
        assert (world.bucket / "runs" / "x" / f"step-{worker}").read_text() == "10"
    # The second TPU VM trains by the same command, and goes on where the first one was.
    lines = (world.folder / "starts.jsonl").read_text().splitlines()
    starts = sorted(json.loads(line) for line in lines)
    assert [(worker, step) for worker, step, _ in starts] == [
        (worker, step) for worker in "01" for step in (0, 5)
    ]
    command = ["--config=configs/tiny.py:small", "--workdir=gs://bucket/runs/x", "--config.seed=3"]
    assert all(arguments == command for *_, arguments in starts), starts
    setups = (world.folder / "setup.txt").read_text().splitlines()
    assert setups == ["setup --venv=../.venv --extras=tpu,gcs --mount=data:/data"] * 4


@pytest.mark.slow
def test_a_queued_resource_is_waited_for(world):
    waiting = {"code": 0, "err": ""}
    world.plan(
        describe=[None, waiting, waiting],
        ssh=[None, {"until": "continuing"}, {"preempt": True}],
    )
    world.run("--queued", "--spot", "--project=p")
    assert world.verbs == ["create", "delete", "create", "delete"]
    flags = "--zone=us-central2-b --project=p --quiet"
    resource = "compute tpus queued-resources"
    changes = [" ".join(call) for call in world.calls if {"create", "delete"} & set(call)]
    assert changes[:2] == [
        f"{resource} create x --node-id=x --accelerator-type=v4-8 "
        f"--runtime-version=tpu-ubuntu2204-base --spot {flags}",
        f"{resource} delete x --force {flags}",
    ]
    assert changes[2:] == changes[:2]


@pytest.mark.parametrize(
    "queued",
    [(), pytest.param(("--queued",), marks=pytest.mark.slow)],
    ids=["created", "queued"],
)
def test_a_dry_run_prints_what_a_real_one_does(world, queued):
    options = (*queued, "--spot", "--mount=data:/data", "--", "--config.note=it's here")
    text = world.run("--dry_run", *options)
    assert world.calls == []
    assert not any(world.bucket.iterdir())
    (world.bucket / "go").touch()
    world.plan(ssh=[None, {"until": '"state": "finished"'}])
    world.run(*options)
    sha = git(world.root, "rev-parse", "HEAD")
    source, first = text.splitlines()[0].split(" | ")
    assert source == f"git archive --format=tar.gz {sha}"
    assert [first, *text.splitlines()[1:]] == [
        shlex.join(["gcloud", *call]) for call in world.calls if call[:2] != ["storage", "cat"]
    ]
    with tarfile.open(world.bucket / "runs" / "x" / "code" / f"{sha[:12]}.tar.gz") as archive:
        assert "configs/tiny.py" in archive.getnames()


@pytest.mark.slow
def test_arguments_reach_the_process_and_logs_show_it(world):
    (world.bucket / "go").touch()
    world.run(TWO_WORKERS, "--keep", "--", "--config.note=it's here")
    out = world("logs", "--worker=1", "--lines=3")
    workdir = "--workdir=gs://bucket/runs/x"
    assert out.splitlines() == [
        f"arguments: --config=configs/tiny.py:small {workdir} --config.note=it's here",
        "continuing from step 0",
        "finished",
    ]
    assert world("status").splitlines() == [
        "x: READY",
        *(f"worker {number}: finished, exit codes 0: finished" for number in range(2)),
    ]
    assert world.verbs == ["create"]
    world("delete")
    assert world("delete") == world("status") == "x: does not exist\n"


@pytest.mark.slow
def test_the_same_command_takes_up_what_is_there(world):
    (world.bucket / "go").touch()
    world.run("--keep")
    world.run()
    assert world.verbs == ["create", "delete"]


QUOTA = """ERROR: (gcloud.compute.tpus.tpu-vm.create) {
  "code": 8,
  "message": "Quota limit 'TPUV4PodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone."
}"""
CAPACITY = """ERROR: (gcloud.compute.tpus.tpu-vm.create) {
  "code": 8,
  "message": "There is no more capacity in the zone \\"us-central2-b\\"; you can try another"
}"""
ZONE = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) PERMISSION_DENIED: Permission denied on "
    "'locations/us-central9-b' (or it may not exist)."
)
ACCELERATOR = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.create) INVALID_ARGUMENT: Cloud TPU received a bad "
    'request. the accelerator v4-8 was not found in zone "us-central2-b" [EID: 0x1]'
)
EXISTS = "ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource x exists"
BUCKET = "ERROR: (gcloud.storage.cp) HTTPError 404: The specified bucket does not exist."


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"create": [{"code": 1, "err": QUOTA}]}, "Limit: 0 in zone; ask for more quota"),
        ({"describe": [{"code": 1, "err": ZONE}]}, "gcloud compute tpus locations list"),
        (
            {"create": [{"code": 1, "err": ACCELERATOR}]},
            "accelerator-types list --zone=us-central2",
        ),
        ({"storage cp": [{"code": 1, "err": BUCKET}]}, "The specified bucket does not exist"),
        (
            {"create": [{"code": 1, "err": CAPACITY}] * 4},
            "gave up after 3 attempts in a row: There",
        ),
        (
            {"create": [{"code": 1, "err": EXISTS}] * 4},
            "gave up after 3 attempts in a row: ALREADY_EXISTS",
        ),
        ({"describe": [None, *[{"code": 1, "err": "ERROR: HTTPError 503"}] * 4]}, "gave up after"),
    ],
)
def test_what_trying_cannot_mend_is_one_line(world, plan, message):
    world.plan(**plan)
    out = world.run("--max_attempts=3", code=1)
    line = out.splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in out


def test_what_may_pass_is_tried_again(world):
    (world.bucket / "go").touch()
    failed = {"code": 255, "err": "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [ssh] exited with 255"}
    world.plan(
        create=[{"code": 1, "err": CAPACITY}, {"code": 1, "err": "ERROR: UNAVAILABLE"}],
        ssh=[failed, None, failed],
    )
    out = world.run()
    assert world.verbs == ["create", "create", "create", "delete"]
    assert "no more capacity" in out and "setting up failed" in out
    assert "0 of 1 workers answer" in out


@pytest.mark.slow
def test_one_that_is_always_preempted_is_given_up(world):
    world.plan(ssh=[{"preempt": True}] * 3)
    out = world.run("--max_attempts=2", code=1)
    assert "error: gave up after 2 attempts in a row" in out.splitlines()[-1]


def test_an_error_of_the_training_command_ends_it_and_is_shown(world):
    (world.folder / "fail").write_text("1")
    out = world.run(TWO_WORKERS, code=1)
    assert "error: a bad config" in out
    assert "error: worker 1 failed with exit code 1; x still exists" in out.splitlines()[-1]
    assert world.verbs == ["create"]
    states = [line.split(": ")[1] for line in world("status").splitlines()[1:]]
    assert states == ["stopped, exit codes 143", "failed, exit codes 1"]  # no one waits for it


@pytest.mark.slow
def test_a_killed_process_is_started_again(world):
    (world.bucket / "go").touch()
    (world.folder / "fail").write_text("137")
    world.run("--keep")
    assert world.verbs == ["create"]
    assert "finished, exit codes 137, 0" in world("status")


@pytest.mark.slow
def test_one_that_is_killed_every_time_has_failed(world):
    (world.folder / "fail").write_text("137")
    out = world.run("--max_restarts=0", code=1)
    assert "error: worker 0 failed with exit code 137" in out


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([("failed", [1]), ("running", [])], False),
        ([("failed", [1]), ("running", [134])], False),  # its peer left with an error
        ([("failed", [1]), ("running", [137])], True),  # its peer was killed
        ([("running", [134, 134]), ("failed", [137, 137])], False),  # no memory, every time
        ([("failed", [130]), ("failed", [130])], False),
    ],
)
def test_who_is_to_blame(codes, expected):
    found = [{"state": state, "exit_codes": list(seen)} for state, seen in codes]
    assert tpu_vm._lost_a_peer(found) is expected


def test_ctrl_c_leaves_everything_alone(world):
    world.plan(create=[{"sleep": 60}])
    process = world.start("run", *RUN)
    while "create" not in world.verbs:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted: x and the run on it are unchanged" in err
    assert "Traceback" not in err
    assert world.verbs == ["create"]


def test_only_what_is_committed_runs(world, repository):
    changed = repository / "configs" / "tiny.py"
    extra = repository / "configs" / "new.py"
    try:
        changed.write_text("# changed\n")
        extra.touch()
        out = world.run(code=1)
        assert "would not run: configs/tiny.py, configs/new.py; commit them, or" in out
        assert world.calls == []
        text = world.run("--allow_uncommitted", "--dry_run")
        assert world.run("--commit=HEAD~0", "--dry_run") == text
        # A dry run alone says that it would be refused, and prints the same.
        told = world.run("--dry_run").removeprefix(text)
        assert told == f"note: without --dry_run this is refused: {out.removeprefix('error: ')}"
        extra.write_text('VARIANTS = ("one", "two")\n')
        assert "configs/new.py:one" in world.run("--dry_run", "--config=configs/new.py:one")
        out = world.run("--dry_run", "--config=configs/new.py:won", code=1)
        assert "has no variant 'won'; variants: one, two. Did you mean 'two'?" in out
        ignored = repository / "configs" / "__pycache__" / "tiny.py"
        ignored.parent.mkdir(exist_ok=True)
        ignored.touch()
        out = world.run("--dry_run", f"--config={ignored}", code=1)
        assert " is not committed (" in out
        assert world.calls == []
        out = world.run("--config=configs/new.py", "--allow_uncommitted", code=1)
        assert "configs/new.py is not committed" in out
        assert "configs/new.py is not committed" in world.run(
            "--config=new", "--allow_uncommitted", code=1
        )
        out = world.run("--config=configs/no.py", "--allow_uncommitted", code=1)
        assert "configs/no.py does not exist" in out
        assert "knows no such commit" in world.run("--commit=nope", code=1)
    finally:
        git(repository, "checkout", "--quiet", "configs/tiny.py")
        extra.unlink()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("simclr", None),
        ("simclr:imagenet", None),
        ("simclr:imgenet", "configs/simclr.py has no variant 'imgenet'; variants: digits, "),
        ("simcrl:imagenet", "there is no config 'simcrl' ("),
        ("simcrl:imagenet", "Did you mean 'simclr'?"),
        ("sweeps/methods:digits", None),
        ("configs/simclr.py", None),
        ("configs/simclr.py:imagenet", None),
        ("configs/simclr.py:imgenet", "configs/simclr.py has no variant 'imgenet'; variants: digi"),
        ("configs/supervised.py:linear_moco", None),
        ("configs/supervised.py:linearmoco", "Did you mean 'linear_moco'?"),
        ("configs/ablations/simclr_augmentations.py:small_shapes,crop,color", None),
        ("configs/ablations/simclr_augmentations.py:shapez,crop", "Did you mean 'shapes'?"),
        ("configs/sweeps/finetune.py:glue_any", None),  # its variants are computed
    ],
)
def test_a_variant_that_its_config_does_not_have(config, message):
    commit = Commit.find(allow_uncommitted=True)
    if message is None:
        assert commit.check_config(config) == config
        return
    with pytest.raises(UserError) as caught:
        commit.check_config(config)
    assert message in str(caught.value) and str(caught.value).startswith(f"--config={config}: ")


def test_configs_named_in_these_files_have_their_variants():
    files = [path for path in (ROOT / "launch").iterdir() if path.is_file()]
    text = "".join(path.read_text() for path in files)
    named = re.findall(r"(?:--config|CONFIG)=([\w/]+):(\w+)", text)
    assert len(named) > 4
    for name, variant in named:
        path = ROOT / "configs" / f"{name}.py"
        assert variant in commit_lib._variants(path.read_text()), (name, variant)


def test_files_that_do_not_say_their_variants():
    for text in (
        "", "VARIANTS = (*X,)", "VARIANTS = 3", "VARIANTS = (1, 2)", "def f(", "a.b = 1\nx = y = 2"
    ):  # fmt: skip
        assert commit_lib._variants(text) is None
    assert commit_lib._variants("import no\nVARIANTS = ['a', 'b']") == ["a", "b"]


@pytest.mark.slow
def test_another_run_in_its_place_is_told(world):
    (world.bucket / "go").touch()
    world.run("--keep")
    out = world.run(TWO_WORKERS, code=1)
    assert "x is a v4-8, not v4:2x2x2 (v4-16); delete it, or choose another --name" in out
    (world.bucket / "go").unlink()
    for step in world.bucket.glob("runs/x/step-*"):
        step.write_text("0")
    world.plan(ssh=[None, {"until": "continuing", "code": 1, "err": "ERROR: PERMISSION_DENIED"}])
    world.run("--max_attempts=0", code=1)  # one that is left running
    out = world.run("--", "--config.seed=9", code=1)
    assert "runs another command, commit" in out
    assert out.splitlines()[-1].endswith("delete x, or choose another --name")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workdir=runs/x",), "the disk of a TPU VM is deleted with it; use gs://BUCKET/PATH"),
        (("--workdir=gs://",), "--workdir=gs:// is not a path in a bucket; use gs://BUCKET/PATH"),
        (("--workdir=gs:///runs/x",), "is not a path in a bucket"),
        (("--max_restarts=-4",), "--max_restarts=-4 is not allowed: at least 0"),
        (("--poll_seconds=-0.5",), "--poll_seconds=-0.5 is not allowed: at least 0"),
        (("--accelerator=v4-17",), "Did you mean 'v4-16'?"),
        (("--accelerator=tpu7x-8",), "does not offer tpu7x as TPU VMs"),
        (("--name=X_1",), "--name=X_1 is not allowed: at most 63"),
        (("--mount=bucket",), "--mount=bucket is not of the form BUCKET:/PATH"),
    ],
)
def test_bad_command_lines(world, options, message):
    out = world.run(*options, code=1)
    assert out.startswith("error: ") and out.count("\n") == 1
    assert message in out
    assert world.calls == []


def test_without_gcloud(repository, tmp_path):
    (tmp_path / "git").symlink_to(shutil.which("git"))
    common = ("--name=x", "--zone=z")
    done = subprocess.run(
        [PYTHON, "-S", "launch/tpu_vm.py", "run", *common, *RUN],
        cwd=repository, env={"PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: gcloud is not installed, or not on PATH\n"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="the Google Cloud SDK is not installed")
def test_gcloud_itself_knows_the_commands(world, tmp_path):
    options = ("--spot", "--project=p", "--create_flag=--network=n", "--ssh_flag=--internal-ip")
    text = world.run("--dry_run", *options) + world.run("--dry_run", "--queued", *options)
    commands = []
    for line in text.splitlines():
        words = shlex.split(line)
        words = words[words.index("gcloud") :]  # after the pipe
        # Scripts for workers confuse it.
        words = ["--command=true" if word.startswith("--command=") else word for word in words]
        commands.append(shlex.join(words))
    listing = tmp_path / "commands.json"
    listing.write_text(json.dumps([{"command_string": one} for one in dict.fromkeys(commands)]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={listing}"],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert {one["command_string"].split()[4] for one in found} >= {"create", "describe", "delete"}
    assert [one["error_message"] for one in found if not one["success"]] == []
