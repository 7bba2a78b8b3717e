"""Trains on a TPU VM: creates it, sets it up, monitors it, and recreates it after a preemption.

    python launch/tpu_vm.py run --name=simclr --zone=us-west4-a --accelerator=v5e:4x8 --spot \\
        --config=simclr:imagenet --workdir=gs://bucket/runs/simclr -- --config.seed=1
    python launch/tpu_vm.py status --name=simclr --zone=us-west4-a
    python launch/tpu_vm.py logs   --name=simclr --zone=us-west4-a [--worker=3] [--follow]
    python launch/tpu_vm.py delete --name=simclr --zone=us-west4-a

The launcher needs Python, git and the Google Cloud SDK, but not JAX. `run` calls `gcloud` in these
steps:

1. Upload the archive of the commit (HEAD, without uncommitted changes) to WORKDIR/code/.
2. Create the TPU VM, as a queued resource with `--queued`. If there is no capacity, retry with
   growing delays. Stop at errors that a retry does not fix (quota, a wrong zone).
3. On every worker, fetch the code, run `launch/setup_host.sh`, and start the training command under
   `launch/supervise.py`, which restarts it after crashes and records the exit codes.
4. Check the state every `--poll_seconds`. After PREEMPTED, TERMINATED, SUSPENDED, FAILED or
   STOPPED, delete the TPU VM and create it again; the run continues from its last checkpoint.
   `--max_attempts` limits the consecutive failures without ten minutes of training in between.
5. Delete the TPU VM when all workers have finished, unless `--keep` is set.

The launcher can be interrupted at any time: Ctrl-C leaves the TPU VM and the run alone, and the
same command attaches to them again. `--dry_run` prints the commands of a run without failures and
executes none of them; it reports uncommitted changes but does not refuse them. Exit codes: 0
finished, 1 error (the TPU VM is kept for inspection), 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import pathlib
import signal
import sys
import time
from typing import Any, NoReturn

# The repository does not have to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import buckets, cloud_tpu, worker
from launch.cloud_tpu import TpuVm
from launch.commit import Commit
from launch.shell import Command, Execute, Result, execute, rehearse, show
from launch.worker import Job
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu_slices

HEALTHY_SECONDS = 600.0  # seconds of training after which the failure count is reset
LONGEST_WAIT = 600.0  # seconds between two attempts


class Launcher:
    """Brings the TPU VM from its current state to the end of the run.

    Args:
      vm: the TPU VM.
      job: the run.
      execute_command: executes a command, or prints it in a dry run.
      options: poll_seconds, retry_seconds, max_attempts, keep, dry_run.
    """

    def __init__(self, vm: TpuVm, job: Job, execute_command: Execute, options: argparse.Namespace):
        self.vm = vm
        self.job = job
        self.execute = execute_command
        self.options = options
        self.failures = 0  # consecutive failures
        self.training_since: float | None = None
        self.last_message = ""

    def run(self) -> int:
        """Runs the job to its end.

        Returns:
          The exit code.

        Raises:
          UserError: the run or the TPU VM failed.
        """
        self._execute_with_retries(self.job.upload())
        workers_started, last_state = False, ""
        while True:
            state = self._state()
            if state != last_state:
                self._report(state or "does not exist")
            last_state, outcome = state, None
            if state is None:
                workers_started = False
                self._create()
                continue
            if state in cloud_tpu.LOST:
                workers_started = False
                self._delete()
                self._retry_later(f"the TPU VM was {state}")
                continue
            if state in cloud_tpu.READY:
                workers_started = workers_started or self._start_workers()
                outcome = self._check_workers() if workers_started else "restart"
            if isinstance(outcome, int):
                return outcome
            workers_started = workers_started and outcome != "restart"
            self._sleep(self.options.poll_seconds)

    def _state(self) -> str | None:
        """The TPU VM's state; None if it does not exist."""
        while True:
            result = self.execute(self.vm.describe())
            if result.code == 0:
                state, _, accelerator = result.out.strip().partition("\t")
                accelerator = accelerator.rpartition("/")[2]
                if accelerator and accelerator != self.vm.slice.accelerator_type:
                    raise UserError(
                        f"{self.vm.name} is a {accelerator}, not {self.vm.slice}; delete it, or "
                        "choose another --name"
                    )
                return state
            kind = cloud_tpu.error_kind(result)
            if kind == "absent":
                return None
            if kind not in cloud_tpu.RETRIED:
                raise cloud_tpu.user_error(result, self.vm)
            self._retry_later(cloud_tpu.error_message(result), result)

    def _create(self) -> None:
        self._report(f"creating {self.vm.slice}{', spot' if self.vm.spot else ''}")
        result = self.execute(self.vm.create())
        kind = cloud_tpu.error_kind(result)
        if result.code == 0:
            return
        # After "exists" too: the old TPU VM may still be in deletion.
        if kind not in cloud_tpu.RETRIED | {"exists"}:
            raise cloud_tpu.user_error(result, self.vm)
        self._retry_later(cloud_tpu.error_message(result), result)

    def _delete(self) -> None:
        self._report("deleting")
        self._execute_with_retries(self.vm.delete(), may_be_absent=True)

    def _start_workers(self) -> bool:
        """Sets up and starts all workers that are not running; False if that has to be retried."""
        self._report("setting up")
        result = self.execute(self.vm.ssh(self.job.start_script()))
        if result.code == 0:
            self.training_since = time.monotonic()
            return True
        if "runs another command" in result.err:
            lines = [line for line in result.err.splitlines() if "runs another command" in line]
            raise UserError(
                f"{lines[0].removeprefix('error: ')}; delete {self.vm.name}, or choose another "
                "--name"
            )
        self._retry_later(f"setting up failed: {_most_telling_line(result)}", result)
        return False

    def _check_workers(self) -> int | str | None:
        """Reads the workers' states.

        Returns:
          The exit code if the run has ended, "restart" if workers have to be started again, else
          None.
        """
        result = self.execute(self.vm.ssh(worker.status_script(self.job.name)))
        statuses = worker.read_statuses(result.out)
        hosts = self.vm.slice.hosts
        if result.code or len(statuses) < hosts:
            # The TPU VM may be in preemption, which the next check of its state shows.
            reason = _most_telling_line(result)
            self._retry_later(f"{len(statuses)} of {hosts} workers answer: {reason}", result)
            return None
        states = [status["state"] for status in statuses]
        self._report(_summary(statuses))
        if all(state == "finished" for state in states):
            return self._end_finished()
        if "stopped" in states:
            raise UserError(f"the run was stopped by hand; {self.vm.name} still exists")
        if "failed" in states and not _lost_a_peer(statuses):
            self._end_failed(statuses)
        if not set(states) <= {"running", "waiting", "finished"}:
            self._retry_later(_summary(statuses))
            return "restart"
        if time.monotonic() - (self.training_since or 0) > HEALTHY_SECONDS:
            self.failures = 0
        return None

    def _end_finished(self) -> int:
        if self.options.keep:
            self._report(f"finished; {self.vm.name} is kept and is still billed")
        else:
            self._delete()
            self._report(f"finished: {self.job.workdir}")
        return 0

    def _end_failed(self, statuses: list[dict[str, Any]]) -> NoReturn:
        """Stops the other workers, which wait for the failed one, and prints its log.

        Raises:
          UserError: always.
        """
        states = [status["state"] for status in statuses]
        number = states.index("failed")
        self.execute(self.vm.ssh(worker.stop_script(self.job.name)))
        script = worker.logs_script(self.job.name, lines=20, follow=False)
        self._print(self.execute(self.vm.ssh(script, worker=str(number))).out)
        codes = ", ".join(map(str, statuses[number]["exit_codes"][-5:]))
        raise UserError(
            f"worker {number} failed with exit code {codes}; {self.vm.name} still exists and is "
            "billed: read its logs, then delete it or run the same command again"
        )

    def _execute_with_retries(self, command: Command, *, may_be_absent: bool = False) -> None:
        """Executes a command; repeats it after errors that may pass."""
        while True:
            result = self.execute(command)
            if result.code == 0:
                return
            kind = cloud_tpu.error_kind(result)
            if may_be_absent and kind == "absent":
                return
            if kind not in cloud_tpu.RETRIED:
                raise cloud_tpu.user_error(result, self.vm)
            self._retry_later(cloud_tpu.error_message(result), result)

    def _retry_later(self, reason: str, result: Result | None = None) -> None:
        """Counts a failure and waits before the next attempt.

        Raises:
          UserError: there were more than `max_attempts` consecutive failures.
        """
        self.failures += 1
        if self.failures > self.options.max_attempts:
            message = f"gave up after {self.options.max_attempts} attempts in a row: {reason}"
            if result is not None and cloud_tpu.error_kind(result) == "capacity":
                message = f"{message}; wait in the queue with --queued, or try another --zone"
            raise UserError(message)
        wait = min(self.options.retry_seconds * 2 ** (self.failures - 1), LONGEST_WAIT)
        count = f"{self.failures}/{self.options.max_attempts}"
        self._report(f"{reason}; next attempt in {wait:.0f} s ({count})")
        self._sleep(wait)

    def _report(self, message: str) -> None:
        """Prints a message with the time, unless it repeats the last one."""
        if message != self.last_message:
            self.last_message = message
            self._print(f"{time.strftime('%H:%M:%S')} {self.vm.name}: {message}\n")

    def _print(self, text: str) -> None:
        if not self.options.dry_run:  # a dry run prints only commands
            print(text, end="", flush=True)

    def _sleep(self, seconds: float) -> None:
        if not self.options.dry_run:
            time.sleep(seconds)


def _lost_a_peer(statuses: list[dict[str, Any]]) -> bool:
    """Whether the failed workers may have failed only because another worker was killed.

    SIGABRT (134) does not count as a kill, because JAX aborts a process whose peer exited with an
    error. A worker that was killed until it had no restarts left is itself the cause.
    """
    killed = any(
        code > 128 and code not in (130, 134)
        for status in statuses
        for code in status["exit_codes"]
    )
    last_codes = [status["exit_codes"][-1] for status in statuses if status["state"] == "failed"]
    return killed and all(code < 128 for code in last_codes)


def _summary(statuses: list[dict[str, Any]]) -> str:
    states = [status["state"] for status in statuses]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    restarts = max(status.get("restarts", 0) for status in statuses)
    restarted = f", {restarts} restarts" if restarts else ""
    return f"workers: {counts}{restarted}: {statuses[0].get('last_line', '')}".rstrip(": ")


def _most_telling_line(result: Result) -> str:
    """The last line with an error, else the last line, of a command's output."""
    lines = [line.strip() for line in (result.out + result.err).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {result.code}"])[-1].removeprefix("error: ")


def rehearse_success(vm: TpuVm, job: Job) -> Execute:
    """An `Execute` for a dry run: prints the commands, and answers as if none of them failed."""
    created = []
    finished = f'{worker.MARK}{{"state": "finished", "exit_codes": [0]}}\n' * vm.slice.hosts
    answers = {
        str(vm.create()): lambda: created.append(True) or Result(),
        str(vm.describe()): lambda: (
            Result(out=sorted(cloud_tpu.READY)[0]) if created else Result(1, err="ERROR: NOT_FOUND")
        ),
        str(vm.ssh(worker.status_script(job.name))): lambda: Result(out=finished),
    }
    return rehearse(lambda command: answers.get(str(command), Result)())


def run(vm: TpuVm, arguments: argparse.Namespace) -> int:
    """Trains on the TPU VM, see the module."""
    commit = Commit.find(
        arguments.commit, allow_uncommitted=arguments.allow_uncommitted, dry_run=arguments.dry_run
    )
    job = Job(
        name=vm.name,
        commit=commit,
        config=commit.check_config(arguments.config),
        workdir=arguments.workdir,
        extra=tuple(arguments.extra),
        mounts=tuple(arguments.mount),
        max_restarts=arguments.max_restarts,
    )
    execute_command = rehearse_success(vm, job) if arguments.dry_run else execute
    return Launcher(vm, job, execute_command, arguments).run()


def status(vm: TpuVm, arguments: argparse.Namespace) -> int:
    """Prints the TPU VM's state, then one line per worker."""
    execute_command = rehearse() if arguments.dry_run else execute
    description = execute_command(vm.describe())
    if description.code and cloud_tpu.error_kind(description) == "absent":
        print(f"{vm.name}: does not exist")
        return 0
    if description.code:
        raise cloud_tpu.user_error(description, vm)
    state = description.out.strip().partition("\t")[0]
    if not arguments.dry_run:
        print(f"{vm.name}: {state}")
        if state not in cloud_tpu.READY:
            return 0
    answers = execute_command(vm.ssh(worker.status_script(vm.name)))
    for number, worker_status in enumerate(worker.read_statuses(answers.out)):
        codes = ", ".join(map(str, worker_status["exit_codes"]))
        exits = f", exit codes {codes}" if codes else ""
        last_line = worker_status.get("last_line", "")
        print(f"worker {number}: {worker_status['state']}{exits}: {last_line}".rstrip(": "))
    if answers.code:
        raise UserError(f"not all workers answer: {_most_telling_line(answers)}")
    return 0


def logs(vm: TpuVm, arguments: argparse.Namespace) -> int:
    """Shows the end of the training log."""
    script = worker.logs_script(vm.name, lines=arguments.lines, follow=arguments.follow)
    command = vm.ssh(script, worker=arguments.worker)
    if arguments.dry_run:
        print(command)
        return 0
    return 1 if show(command) else 0


def delete(vm: TpuVm, arguments: argparse.Namespace) -> int:
    """Deletes the TPU VM."""
    result = (rehearse() if arguments.dry_run else execute)(vm.delete())
    if result.code and cloud_tpu.error_kind(result) != "absent":
        raise cloud_tpu.user_error(result, vm)
    if not arguments.dry_run:
        print(f"{vm.name}: {'does not exist' if result.code else 'deleted'}")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="run|status|logs|delete")
    for action in (run, status, logs, delete):
        _add_flags(commands.add_parser(action.__name__), action.__name__)
    argv = sys.argv[1:]
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    arguments.extra = argv[end + 1 :]
    if arguments.extra and arguments.action != "run":
        parser.error("only run takes arguments after --")
    return arguments


def _add_flags(parser: argparse.ArgumentParser, action: str) -> None:
    flag = parser.add_argument
    flag("--name", required=True, help="name of the TPU VM and of the run on it")
    flag("--zone", required=True, help="e.g. us-west4-a")
    flag("--project", help="default: the project that gcloud is set to")
    flag("--queued", action="store_true", help="the TPU VM is a queued resource")
    flag("--dry_run", action="store_true", help="print the commands without executing them")
    flag("--ssh_flag", action="append", default=[], help="flag of gcloud's ssh, e.g. --internal-ip")
    if action == "logs":
        flag("--worker", default="0", help="number of a worker, or all")
        flag("--lines", type=int, default=100)
        flag("--follow", action="store_true")
    if action != "run":
        return
    flag("--accelerator", required=True, help="e.g. v5e:4x8, or equally v5litepod-32")
    flag("--config", required=True, help="NAME or FILE.py, optionally with :VARIANT")
    flag("--workdir", required=True, help="gs://BUCKET/PATH")
    flag("--spot", action="store_true", help="cheaper, but may be preempted")
    flag("--runtime_version", help="TPU VM software; default: by accelerator")
    flag("--create_flag", action="append", default=[], help="flag of gcloud's create; repeatable")
    flag("--mount", action="append", default=[], metavar="BUCKET:/PATH", help="mount a bucket")
    flag("--commit", default="HEAD", help="commit to run")
    flag("--allow_uncommitted", action="store_true", help="run HEAD without the changes")
    flag("--keep", action="store_true", help="keep the TPU VM after the run has finished")
    flag("--max_restarts", type=int, default=10, help="consecutive restarts of a worker")
    flag("--max_attempts", type=int, default=20, help="consecutive failures before giving up")
    flag("--poll_seconds", type=float, default=30)
    flag("--retry_seconds", type=float, default=30, help="first delay; doubled after each failure")


def _vm(arguments: argparse.Namespace) -> TpuVm:
    common = dict(
        name=arguments.name,
        zone=arguments.zone,
        project=arguments.project,
        queued=arguments.queued,
        ssh_flags=tuple(arguments.ssh_flag),
    )
    if arguments.action != "run":
        return TpuVm(**common)
    buckets.check_workdir(arguments.workdir, "a TPU VM")
    for mount in arguments.mount:
        buckets.split_mount(mount)
    for name in ("max_restarts", "max_attempts", "poll_seconds", "retry_seconds"):
        if not getattr(arguments, name) >= 0:
            raise UserError(f"--{name}={getattr(arguments, name):g} is not allowed: at least 0")
    slice_ = tpu_slices.parse(arguments.accelerator)
    if arguments.runtime_version is None:
        _ = slice_.runtime_version  # raises UserError for generations without TPU VMs
    return TpuVm(
        **common,
        slice=slice_,
        spot=arguments.spot,
        runtime_version=arguments.runtime_version,
        create_flags=tuple(arguments.create_flag),
    )


def _interrupted(arguments: argparse.Namespace, code: int) -> int:
    if arguments.action == "run":
        print(
            f"\ninterrupted: {arguments.name} and the run on it are unchanged. The same command "
            f"attaches again; status, logs and delete need --name={arguments.name} "
            f"--zone={arguments.zone}",
            file=sys.stderr,
        )
    return code


def _terminate(number: int, frame: Any) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def main() -> int:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return globals()[arguments.action](_vm(arguments), arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted(arguments, 130)
    except SystemExit as stop:
        return _interrupted(arguments, stop.code)


if __name__ == "__main__":
    sys.exit(main())
