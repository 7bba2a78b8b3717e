"""Trains on a TPU VM: creates it, sets it up, monitors it, and recreates it after a preemption.

    python launch/tpu_vm.py run --name=simclr --zone=us-west4-a --accelerator=v5e:4x8 --spot \\
        --config=simclr:imagenet --workdir=gs://bucket/runs/simclr -- --config.seed=1
    python launch/tpu_vm.py status --name=simclr --zone=us-west4-a
    python launch/tpu_vm.py logs   --name=simclr --zone=us-west4-a [--worker=3] [--follow]
    python launch/tpu_vm.py delete --name=simclr --zone=us-west4-a

It needs Python, git and the Google Cloud SDK, no JAX. `run` does, with `gcloud` and in this order:

1. The archive of the commit (HEAD, with nothing uncommitted) goes to WORKDIR/code/.
2. The TPU VM is created, as a queued resource with `--queued`. Where there is no capacity it tries
   again, more and more slowly; what trying cannot mend (quota, a wrong zone) ends it.
3. Every worker fetches the code, runs `launch/setup_host.sh`, and starts the training command under
   `launch/supervise.py`, which restarts it after crashes and says with which exit codes.
4. It looks every `--poll_seconds`. After PREEMPTED, TERMINATED, SUSPENDED, FAILED or STOPPED the
   TPU VM is deleted and created again, and the run goes on from its last checkpoint.
   `--max_attempts` bounds the attempts in a row without ten minutes of training.
5. Once all workers have finished, the TPU VM is deleted, unless `--keep`.

Everything may be interrupted: Ctrl-C leaves the TPU VM and the run alone, and the same command
takes up where they are. `--dry_run` prints the commands of a run in which nothing goes wrong, and
runs none of them; what is not committed it only notes. Exit codes: 0 finished, 1 errors (the TPU VM
stays, for a look at it), 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import pathlib
import signal
import sys
import time
from typing import Any, NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # nothing is installed here

from launch import buckets, cloud_tpu, worker
from launch.cloud_tpu import TpuVm
from launch.commit import Commit
from launch.shell import Command, Execute, Result, execute, rehearse, show
from launch.worker import Job
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu_slices

HEALTHY_SECONDS = 600.0  # of training, after which attempts are counted from nought
LONGEST_WAIT = 600.0


class Launcher:
    """Step by step from whatever state the TPU VM is in to the end of the run.

    Args:
      vm: the TPU VM.
      job: what to run on it.
      run: executes commands, or rehearses them.
      options: poll_seconds, retry_seconds, max_attempts, keep, dry_run.
    """

    def __init__(self, vm: TpuVm, job: Job, run: Execute, options: argparse.Namespace):
        self.vm = vm
        self.job = job
        self.execute = run
        self.options = options
        self.attempts = 0
        self.training_since: float | None = None
        self.said = ""

    def run(self) -> int:
        self._checked(self.job.upload())
        started, last = False, ""
        while True:
            state = self._state()
            if state != last:
                self._say(state or "not there")
            last, verdict = state, None
            if state is None:
                started = False
                self._create()
                continue
            if state in cloud_tpu.LOST:
                started = False
                self._delete()
                self._attempt(f"the TPU VM was {state}")
                continue
            if state in cloud_tpu.READY:
                started = started or self._start()
                verdict = self._look() if started else "again"
            if isinstance(verdict, int):
                return verdict
            started = started and verdict != "again"
            self._sleep(self.options.poll_seconds)

    def _state(self) -> str | None:
        """The TPU VM's state, None if there is none of that name."""
        while True:
            done = self.execute(self.vm.describe())
            if done.code == 0:
                state, _, accelerator = done.out.strip().partition("\t")
                accelerator = accelerator.rpartition("/")[2]
                if accelerator and accelerator != self.vm.slice.accelerator_type:
                    raise UserError(
                        f"{self.vm.name} is a {accelerator}, not {self.vm.slice}; delete it, or "
                        "choose another --name"
                    )
                return state
            kind = cloud_tpu.kind_of(done)
            if kind == "absent":
                return None
            if kind not in cloud_tpu.RETRIED:
                raise cloud_tpu.explain(done, self.vm)
            self._attempt(cloud_tpu.message_of(done), done)

    def _create(self) -> None:
        self._say(f"creating {self.vm.slice}{', spot' if self.vm.spot else ''}")
        done = self.execute(self.vm.create())
        kind = cloud_tpu.kind_of(done)
        if done.code == 0:
            return
        if kind not in cloud_tpu.RETRIED | {"exists"}:  # it may just be going
            raise cloud_tpu.explain(done, self.vm)
        self._attempt(cloud_tpu.message_of(done), done)

    def _delete(self) -> None:
        self._say("deleting")
        self._checked(self.vm.delete(), absent_is_fine=True)

    def _start(self) -> bool:
        """Sets all workers up and starts them, where that is not done; False to try again."""
        self._say("setting up")
        done = self.execute(self.vm.ssh(self.job.start_script()))
        if done.code == 0:
            self.training_since = time.monotonic()
            return True
        if "runs another command" in done.err:
            lines = [line for line in done.err.splitlines() if "runs another command" in line]
            raise UserError(
                f"{lines[0].removeprefix('error: ')}; delete {self.vm.name}, or choose another "
                "--name"
            )
        self._attempt(f"setting up failed: {_tail(done)}", done)
        return False

    def _look(self) -> int | str | None:
        """Asks the workers.

        Returns:
          The exit code of a run that is over, "again" if workers have to be started again, else
          None.
        """
        done = self.execute(self.vm.ssh(worker.status_script(self.job.name)))
        found = worker.read_statuses(done.out)
        hosts = self.vm.slice.hosts
        if done.code or len(found) < hosts:
            # Perhaps it is being preempted: its state, which comes next, will tell.
            self._attempt(f"{len(found)} of {hosts} workers answer: {_tail(done)}", done)
            return None
        states = [one["state"] for one in found]
        self._say(_summary(found))
        if all(state == "finished" for state in states):
            return self._finished()
        if "stopped" in states:
            raise UserError(f"somebody has stopped the run; {self.vm.name} is still there")
        if "failed" in states and not _lost_a_peer(found):
            return self._failed(found)
        if not set(states) <= {"running", "waiting", "finished"}:
            self._attempt(_summary(found))
            return "again"
        if time.monotonic() - (self.training_since or 0) > HEALTHY_SECONDS:
            self.attempts = 0
        return None

    def _finished(self) -> int:
        if self.options.keep:
            self._say(f"finished; {self.vm.name} is kept and costs on")
        else:
            self._delete()
            self._say(f"finished: {self.job.workdir}")
        return 0

    def _failed(self, found: list[dict[str, Any]]) -> int:
        """Ends the other workers, which wait for the failed one."""
        number = next(i for i, one in enumerate(found) if one["state"] == "failed")
        self.execute(self.vm.ssh(worker.stop_script(self.job.name)))
        script = worker.logs_script(self.job.name, lines=20, follow=False)
        self._print(self.execute(self.vm.ssh(script, worker=str(number))).out)
        codes = ", ".join(map(str, found[number]["exit_codes"][-5:]))
        raise UserError(
            f"worker {number} failed with exit code {codes}; {self.vm.name} is still there and "
            "costs on: look at its logs, then delete it or run the same command again"
        )

    def _checked(self, command: Command, *, absent_is_fine: bool = False) -> None:
        """Executes a command, several times where that may help."""
        while True:
            done = self.execute(command)
            if done.code == 0 or (absent_is_fine and cloud_tpu.kind_of(done) == "absent"):
                return
            if cloud_tpu.kind_of(done) not in cloud_tpu.RETRIED:
                raise cloud_tpu.explain(done, self.vm)
            self._attempt(cloud_tpu.message_of(done), done)

    def _attempt(self, reason: str, done: Result | None = None) -> None:
        """Counts something that went wrong and waits, or gives up."""
        self.attempts += 1
        if self.attempts > self.options.max_attempts:
            told = f"gave up after {self.options.max_attempts} attempts in a row: {reason}"
            if done is not None and cloud_tpu.kind_of(done) == "capacity":
                told = f"{told}; wait in line with --queued, or try another --zone"
            raise UserError(told)
        wait = min(self.options.retry_seconds * 2 ** (self.attempts - 1), LONGEST_WAIT)
        self._say(f"{reason}; again in {wait:.0f} s ({self.attempts}/{self.options.max_attempts})")
        self._sleep(wait)

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            self._print(f"{time.strftime('%H:%M:%S')} {self.vm.name}: {text}\n")

    def _print(self, text: str) -> None:
        if not self.options.dry_run:  # which prints commands alone
            print(text, end="", flush=True)

    def _sleep(self, seconds: float) -> None:
        if not self.options.dry_run:
            time.sleep(seconds)


def _lost_a_peer(found: list[dict[str, Any]]) -> bool:
    """Whether workers may have failed only because another one's process was killed.

    SIGABRT (134) does not count as killed: so die those whose peer has left with an error. One that
    was killed again and again, until it failed, has itself to blame.
    """
    killed = any(
        code > 128 and code not in (130, 134) for one in found for code in one["exit_codes"]
    )
    return killed and all(one["exit_codes"][-1] < 128 for one in found if one["state"] == "failed")


def _summary(found: list[dict[str, Any]]) -> str:
    states = [one["state"] for one in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    restarts = max(one.get("restarts", 0) for one in found)
    again = f", {restarts} restarts" if restarts else ""
    return f"workers: {counts}{again}: {found[0].get('last_line', '')}".rstrip(": ")


def _tail(done: Result) -> str:
    """The line that says most: the last error, or just the last."""
    lines = [line.strip() for line in (done.out + done.err).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {done.code}"])[-1].removeprefix("error: ")


def smooth(vm: TpuVm, job: Job) -> Execute:
    """Rehearses a run in which nothing goes wrong: prints the commands it would take."""
    there = []
    finished = f'{worker.MARK}{{"state": "finished", "exit_codes": [0]}}\n' * vm.slice.hosts
    answers = {
        str(vm.create()): lambda: there.append(True) or Result(),
        str(vm.describe()): lambda: (
            Result(out=sorted(cloud_tpu.READY)[0]) if there else Result(1, err="ERROR: NOT_FOUND")
        ),
        str(vm.ssh(worker.status_script(job.name))): lambda: Result(out=finished),
    }
    return rehearse(lambda command: answers.get(str(command), Result)())


def run(vm: TpuVm, given: argparse.Namespace) -> int:
    commit = Commit.find(
        given.commit, allow_uncommitted=given.allow_uncommitted, dry_run=given.dry_run
    )
    job = Job(
        name=vm.name,
        commit=commit,
        config=commit.check_config(given.config),
        workdir=given.workdir,
        extra=tuple(given.extra),
        mounts=tuple(given.mount),
        max_restarts=given.max_restarts,
    )
    return Launcher(vm, job, smooth(vm, job) if given.dry_run else execute, given).run()


def status(vm: TpuVm, given: argparse.Namespace) -> int:
    """The TPU VM's state, then a line a worker."""
    ask = rehearse() if given.dry_run else execute
    described = ask(vm.describe())
    if described.code and cloud_tpu.kind_of(described) == "absent":
        print(f"{vm.name}: not there")
        return 0
    if described.code:
        raise cloud_tpu.explain(described, vm)
    state = described.out.strip().partition("\t")[0]
    if not given.dry_run:
        print(f"{vm.name}: {state}")
        if state not in cloud_tpu.READY:
            return 0
    answered = ask(vm.ssh(worker.status_script(vm.name)))
    for number, one in enumerate(worker.read_statuses(answered.out)):
        codes = ", ".join(map(str, one["exit_codes"]))
        ended = f", exit codes {codes}" if codes else ""
        print(f"worker {number}: {one['state']}{ended}: {one.get('last_line', '')}".rstrip(": "))
    if answered.code:
        raise UserError(f"not all workers answer: {_tail(answered)}")
    return 0


def logs(vm: TpuVm, given: argparse.Namespace) -> int:
    script = worker.logs_script(vm.name, lines=given.lines, follow=given.follow)
    command = vm.ssh(script, worker=given.worker)
    if given.dry_run:
        print(command)
        return 0
    return 1 if show(command) else 0


def delete(vm: TpuVm, given: argparse.Namespace) -> int:
    done = (rehearse() if given.dry_run else execute)(vm.delete())
    if done.code and cloud_tpu.kind_of(done) != "absent":
        raise cloud_tpu.explain(done, vm)
    if not given.dry_run:
        print(f"{vm.name}: {'not there' if done.code else 'deleted'}")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="run|status|logs|delete")
    for action in (run, status, logs, delete):
        _add_flags(commands.add_parser(action.__name__), action.__name__)
    argv = sys.argv[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    given = parser.parse_args(argv[:at])
    given.extra = argv[at + 1 :]
    if given.extra and given.action != "run":
        parser.error("only run takes arguments after --")
    return given


def _add_flags(parser: argparse.ArgumentParser, action: str) -> None:
    flag = parser.add_argument
    flag("--name", required=True, help="of the TPU VM, and of the run on it")
    flag("--zone", required=True, help="e.g. us-west4-a")
    flag("--project", help="default: gcloud's own")
    flag("--queued", action="store_true", help="it is, or becomes, a queued resource")
    flag("--dry_run", action="store_true", help="print the commands, run none")
    flag("--ssh_flag", action="append", default=[], help="for gcloud's ssh, e.g. --internal-ip")
    if action == "logs":
        flag("--worker", default="0", help="a number, or all")
        flag("--lines", type=int, default=100)
        flag("--follow", action="store_true")
    if action != "run":
        return
    flag("--accelerator", required=True, help="v5e:4x8, or v5litepod-32, which is the same")
    flag("--config", required=True, help="NAME or FILE.py, with :VARIANT if wanted")
    flag("--workdir", required=True, help="gs://BUCKET/PATH")
    flag("--spot", action="store_true", help="cheaper, and may be taken away")
    flag("--runtime_version", help="software of the TPU VM; default: the accelerator's")
    flag("--create_flag", action="append", default=[], help="for gcloud's create; may be repeated")
    flag("--mount", action="append", default=[], metavar="BUCKET:/PATH", help="mount a bucket")
    flag("--commit", default="HEAD", help="what to run")
    flag("--allow_uncommitted", action="store_true", help="run HEAD although files have changed")
    flag("--keep", action="store_true", help="do not delete the TPU VM of a finished run")
    flag("--max_restarts", type=int, default=10, help="of a worker's process, in a row")
    flag("--max_attempts", type=int, default=20, help="to get the run going, in a row")
    flag("--poll_seconds", type=float, default=30)
    flag("--retry_seconds", type=float, default=30, help="before the second attempt; then doubled")


def _vm(given: argparse.Namespace) -> TpuVm:
    common = dict(
        name=given.name,
        zone=given.zone,
        project=given.project,
        queued=given.queued,
        ssh_flags=tuple(given.ssh_flag),
    )
    if given.action != "run":
        return TpuVm(**common)
    buckets.check_workdir(given.workdir, "a TPU VM")
    for mount in given.mount:
        buckets.split_mount(mount)
    for name in ("max_restarts", "max_attempts", "poll_seconds", "retry_seconds"):
        if not getattr(given, name) >= 0:
            raise UserError(f"--{name}={getattr(given, name):g}: at least 0")
    slice_ = tpu_slices.parse(given.accelerator)
    if given.runtime_version is None:
        _ = slice_.runtime_version  # not every generation has one
    return TpuVm(
        **common,
        slice=slice_,
        spot=given.spot,
        runtime_version=given.runtime_version,
        create_flags=tuple(given.create_flag),
    )


def _interrupted(given: argparse.Namespace, code: int) -> int:
    if given.action == "run":
        print(
            f"\ninterrupted: {given.name} and the run on it are left as they are. The same command "
            f"takes them up; status, logs and delete take --name={given.name} --zone={given.zone}",
            file=sys.stderr,
        )
    return code


def _terminate(number: int, frame: Any) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def main() -> int:
    given = _parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return globals()[given.action](_vm(given), given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted(given, 130)
    except SystemExit as stop:
        return _interrupted(given, stop.code)


if __name__ == "__main__":
    sys.exit(main())
