"""The shell scripts and the image: linted, and run with programs that note how they are called."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def tool(name):
    """A program of the virtual environment, which need not be activated."""
    found = shutil.which(name, path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def lint(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_clean():
    assert [script.name for script in SCRIPTS] == ["setup_host.sh", "slurm.sbatch"]
    lint(tool("shellcheck"), "--severity=style", *map(str, SCRIPTS))


def test_the_dockerfile_is_clean():
    lint(tool("hadolint"), "--failure-threshold=style", str(LAUNCH / "Dockerfile"))


def test_the_image_gets_all_that_its_installation_needs():
    """The layer with the libraries has only what is copied before it."""
    text = (LAUNCH / "Dockerfile").read_text()
    before = text[: text.index("RUN pip install")]
    lines = [line.split()[1:] for line in before.splitlines() if line.startswith("COPY ")]
    copied = {pathlib.Path(name) for line in lines for name in line[:-1]}
    for name in copied:
        assert (ROOT / name).is_file(), name
    # What setup.py reads.
    assert {pathlib.Path("README.md"), pathlib.Path("ssl_jax/__init__.py")} <= copied
    setup = (ROOT / "setup.py").read_text()
    assert setup.count("ROOT /") == 2
    for extra in ("tpu", "cuda", "cuda13", "gcs"):  # the build argument's values
        assert f'"{extra}": [' in setup


class Programs:
    """Programs in a folder that write down how they are called, in the order of the calls."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "CALLS": str(folder / "calls"),
        }

    def add(self, name, body=""):
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"$CALLS"\n{body}\n')
        path.chmod(0o755)

    @property
    def calls(self):
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def python3(*, new_enough=True, has_venv=True):
    """A Python, whose environments have a python that notes what pip is asked."""
    return f"""
case "$*" in
    "-c import sys;"*) exit {int(not new_enough)} ;;
    "-c import ensurepip"*) exit {int(not has_venv)} ;;
    *"venv "*)
        for last; do :; done
        mkdir -p "$last/bin"
        printf '#!/bin/bash\\necho "venv-python $*" >>"$CALLS"\\n' >"$last/bin/python"
        chmod +x "$last/bin/python" ;;
esac
"""


@pytest.fixture
def host(tmp_path):
    """A machine of its own with a checkout, as far as setup_host.sh looks at it."""
    programs = Programs(tmp_path)
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(LAUNCH / "setup_host.sh", checkout / "launch")
    (checkout / "setup.py").write_text("# a package\n")
    programs.add("sudo", 'exec "$@"')
    programs.add("apt-get")
    programs.add("curl")
    programs.add("dpkg", "echo amd64")
    programs.add("chown")
    programs.add("mountpoint", f'grep -qx "$2" {tmp_path}/mounted 2>/dev/null')
    programs.checkout = checkout
    return programs


def set_up(host, *options, code=0):
    done = subprocess.run(
        ["bash", str(host.checkout / "launch" / "setup_host.sh"), *options],
        env=host.environment, cwd=host.folder, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_set_up_installs_once(host):
    host.add("python3", python3())
    set_up(host, "--extras=tpu,gcs")
    installs = ["venv-python -m pip install --quiet --disable-pip-version-check -e .[tpu,gcs]"]
    assert host.calls[-2:] == ["python3 -m venv .venv", *installs]
    assert ".venv: up to date" in set_up(host, "--extras=tpu,gcs")
    assert [call for call in host.calls if " pip " in call] == installs
    (host.checkout / "setup.py").write_text("# it needs more now\n")
    set_up(host, "--extras=tpu,gcs")
    assert [call for call in host.calls if " pip " in call] == installs * 2
    assert host.calls.count("python3 -m venv .venv") == 1


def test_an_old_python_fetches_a_newer_one(host):
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        host.add(name, python3(new_enough=False))
    set_up(host, "--venv=../elsewhere")
    assert "python3 -m pip install --quiet --user uv" in host.calls
    assert "python3 -m uv venv --quiet --seed --python 3.12 ../elsewhere" in host.calls
    assert host.calls[-1].endswith("-e .")


def test_what_debian_leaves_out_is_installed(host):
    host.add("python3", python3(has_venv=False))
    set_up(host)
    install = host.calls.index("python3 -m venv .venv") - 1
    assert host.calls[install].startswith("apt-get") and host.calls[install].endswith(
        "python3-venv"
    )


def test_buckets_are_mounted_once(host):
    host.add("python3", python3())
    path = host.folder / "data"
    installs = f"printf '#!/bin/bash\\necho \"gcsfuse $*\" >>{host.folder}/calls\\n" \
               f"echo \"${{@: -1}}\" >>{host.folder}/mounted\\n' >{host.bin}/gcsfuse; " \
               f"chmod +x {host.bin}/gcsfuse"  # fmt: skip
    host.add("apt-get", installs)
    for _ in range(2):
        out = set_up(host, f"--mount=bucket:{path}")
    assert f"{path}: mounted" in out
    mounts = [call for call in host.calls if call.startswith("gcsfuse")]
    assert mounts == [f"gcsfuse --implicit-dirs -o ro bucket {path}"]
    (install,) = [call for call in host.calls if call.startswith("apt-get")]
    assert "DPkg::Lock::Timeout=600 install" in install and install.endswith(".deb")
    assert path.is_dir()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--mount=bucket", "--mount=bucket is not of the form --mount=BUCKET:/PATH"),
        ("--extra=tpu", "unknown argument --extra=tpu; arguments: --venv=, --extras=, --mount"),
    ],
)
def test_wrong_arguments_of_set_up(host, option, message):
    out = set_up(host, option, code=1)
    assert out.startswith("error: ") and message in out
    assert host.calls == []


# srun: runs the command as SLURM would a task, and passes SIGTERM on.
SRUN = """
while [[ $1 == --* ]]; do shift; done
"$@" &
trap 'kill -TERM $!' TERM
wait $! && exit 0
code=$?
kill -0 $! 2>/dev/null && { wait $!; code=$?; }
exit $code
"""

# The training process: its exit code is what the file says, or 143 once it gets SIGTERM.
TRAIN = """
echo $$ >"$HOME/pid"
echo "in $PWD" >>"$CALLS"
[ ! -e "$HOME/code" ] || exit "$(cat "$HOME/code")"
trap 'echo saved >>"$CALLS"; exit 143' TERM
echo ready >>"$CALLS"
for _ in {1..1000}; do sleep 0.1; done
"""


@pytest.fixture
def cluster(tmp_path):
    """A checkout in a cluster of one node."""
    programs = Programs(tmp_path)
    checkout = tmp_path / "checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "setup.py").write_text("# committed\n")
    (checkout / ".gitignore").write_text(".venv/\nruns/\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "--quiet"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(("git", "-C", str(checkout), *command), check=True)
    (checkout / "setup.py").write_text("# changed\n")
    programs.add("python", TRAIN)
    (programs.bin / "python").rename(checkout / ".venv" / "bin" / "python")
    programs.add("srun", SRUN)
    programs.add("scontrol")
    programs.add("squeue", f"cat {tmp_path}/state")
    (tmp_path / "state").write_text("RUNNING\n")
    programs.checkout = checkout
    programs.environment |= {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(checkout)}
    return programs


def submit(cluster, *arguments, **environment):
    # SLURM runs a copy of the script from a folder of its own.
    script = cluster.folder / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sbatch", script)
    return subprocess.Popen(
        ["bash", str(script), *arguments],
        env={**cluster.environment, **environment}, cwd=cluster.folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(job, code):
    out, _ = job.communicate(timeout=100)
    assert job.returncode == code, out
    return out


def wait_for_call(cluster, start):
    end = time.monotonic() + 100
    while not any(call.startswith(start) for call in cluster.calls):
        assert time.monotonic() < end, cluster.calls
        time.sleep(0.05)


def test_a_job_runs_the_commit(cluster):
    (cluster.folder / "code").write_text("0")
    job = submit(cluster, "train", "--config=c.py", "--workdir=runs/x", "--config.note=a b",
                 SLURM_CPUS_PER_TASK="8")  # fmt: skip
    finish(job, 0)
    sha = subprocess.run(
        ("git", "-C", str(cluster.checkout), "rev-parse", "HEAD"), capture_output=True, text=True
    ).stdout.strip()
    code = cluster.checkout / "runs" / ".code" / sha
    assert (code / "setup.py").read_text() == "# committed\n"
    python = cluster.checkout / ".venv" / "bin" / "python"
    arguments = (
        f"-m ssl_jax train --config=c.py --workdir={cluster.checkout}/runs/x --config.note=a b"
    )
    assert cluster.calls == [
        f"srun --kill-on-bad-exit=1 --gpu-bind=none --cpus-per-task=8 {python} {arguments}",
        f"python {arguments}",
        f"in {code}",
    ]
    assert os.listdir(code.parent) == [sha]


def test_a_dry_run_prints_what_a_job_runs(cluster):
    (cluster.folder / "code").write_text("0")
    given = ("train", "--config=c.py", "--workdir=runs/x", "--config.note=it's here")
    printed = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), "--dry_run", *given], cwd=cluster.checkout,
        env={**cluster.environment, "SLURM_JOB_ID": ""}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert cluster.calls == [] and not (cluster.checkout / "runs").exists()
    # The printed lines are commands: they do what the job does after them.
    subprocess.run(
        ["bash", "-euc", printed], cwd=cluster.checkout, env=cluster.environment, check=True
    )
    expected = list(cluster.calls)
    assert expected[0].startswith("srun ") and expected[-1].startswith("in ")
    finish(submit(cluster, *given), 0)
    assert cluster.calls[len(expected) :] == expected


def test_a_cell_of_a_job_array(cluster):
    (cluster.folder / "code").write_text("0")
    job = submit(cluster, "sweep", "--config=s.py", "--workdir=/data/x",
                 SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")  # fmt: skip
    finish(job, 0)
    assert cluster.calls[1] == "python -m ssl_jax sweep --config=s.py --workdir=/data/x --cell=3"


def test_at_the_time_limit_it_saves_and_is_queued_again(cluster):
    job = submit(cluster, "train", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID="3")
    wait_for_call(cluster, "ready")
    job.send_signal(signal.SIGTERM)
    assert "saved; the job is queued again" in finish(job, 143)
    assert cluster.calls.count("saved") == 1
    assert cluster.calls[-1] == "scontrol requeue 5_3"


def test_a_cancelled_job_stays_cancelled(cluster):
    job = submit(cluster, "train")
    wait_for_call(cluster, "ready")
    (cluster.folder / "state").write_text("COMPLETING\n")
    job.send_signal(signal.SIGTERM)  # as SLURM sends to the script and to every process
    time.sleep(0.3)
    assert "saved" not in cluster.calls
    task = int((cluster.folder / "pid").read_text())
    assert task > 1
    os.kill(task, signal.SIGTERM)
    finish(job, 143)
    assert cluster.calls.count("saved") == 1
    assert not any(call.startswith("scontrol") for call in cluster.calls)


@pytest.mark.parametrize("code", [1, 134])
def test_other_exit_codes_end_the_job(cluster, code):
    (cluster.folder / "code").write_text(str(code))
    finish(submit(cluster, "train"), code)
    assert not any(call.startswith("scontrol") for call in cluster.calls)


def test_wrong_uses_of_the_slurm_script(cluster):
    assert "no command given; write train" in finish(submit(cluster), 1)
    assert "submit this script with sbatch" in finish(submit(cluster, "train", SLURM_JOB_ID=""), 1)
    out = finish(submit(cluster, "train", COMMIT="nope"), 1)
    assert out.startswith("error: git knows no commit nope in ")
    shutil.rmtree(cluster.checkout / ".venv")
    assert "has no .venv; run bash launch/setup_host.sh" in finish(submit(cluster, "train"), 1)


def test_sbatch_options():
    """What the script's comments promise, by the options' names in sbatch's manual."""
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = dict(
        (line.removeprefix("#SBATCH --").partition("=")[::2])
        for line in lines
        if line.startswith("#SBATCH ")
    )
    assert options["signal"] == "B:TERM@120"  # B: to the script alone, which passes it on
    assert options["requeue"] == "" and options["open-mode"] == "append"
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    first = next(number for number, line in enumerate(lines) if line and line[0] != "#")
    assert all(not line.startswith("#SBATCH") for line in lines[first:])  # else it is not read


def test_the_sky_task_is_yaml():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert set(task) == {"name", "resources", "workdir", "envs", "setup", "run"}
    for part in ("setup", "run"):
        lint(tool("shellcheck"), "--shell=bash", "-", input=task[part])
