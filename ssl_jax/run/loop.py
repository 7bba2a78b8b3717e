"""The training loop of a run: trains, logs, evaluates, saves and resumes in its workdir."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import checkpoint, data, modalities, parallel
from ssl_jax import config as config_lib
from ssl_jax.checkpoint import steps
from ssl_jax.core import storage
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.data import class_names
from ssl_jax.evals.registry import Evaluation
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.flops import model_flops
from ssl_jax.experiment.refresh import Refresher
from ssl_jax.experiment.train_step import TrainState
from ssl_jax.hardware import compiler_thread, memory
from ssl_jax.pretrained import init_from
from ssl_jax.run import (
    failures,
    final_results,
    metrics,
    progress,
    report_contents,
    workdir_lock,
)
from ssl_jax.run.dry_evaluation import dry_evaluation
from ssl_jax.run.early_stopping import EarlyStopping
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.first_state import first_state
from ssl_jax.run.probing import Prober
from ssl_jax.run.profiler import Profiler
from ssl_jax.run.signals import SharedStop, StopRequest
from ssl_jax.run.step_logger import StepLogger


class Run:
    """One run in its workdir.

    Args:
      config: a resolved config.
      workdir: folder of the run; created if missing, continued if it holds a run of this config.
        No other run can write to it until `execute` or this process has ended.
      allow_config_change: continue although the workdir's config differs.
    """

    def __init__(self, config: ConfigDict, workdir: str, *, allow_config_change: bool = False):
        storage.check_path(workdir)
        self.workdir = epath.Path(workdir)
        if not storage.is_object_store(self.workdir):
            self.workdir = self.workdir.expanduser()
        self.primary = jax.process_index() == 0
        if config.init_from is not None and config.init_weights and not self._has_begun():
            init_from.check_exists(config.init_from)
        source = data.from_config(config.data, seed=config.seed)
        self.source = class_names.matched(source, self._known_class_names())
        self.config = data.with_facts(
            config, self.source.spec, self.source.available, self.source.class_names
        )
        self.experiment = Experiment.build(self.config, self.source.spec)
        check_evaluations(self.experiment)
        report_contents.check_beside(self.experiment)
        preflight.check_memory(self.experiment)
        parallel.check_batch_size(config.batch_size, self.experiment.mesh)
        self.stopping = EarlyStopping.of(self.config)
        self.length = self.experiment.length
        self.mesh = self.experiment.mesh
        self.lock = workdir_lock.acquire(self.workdir)
        try:
            self._settle(allow_config_change)
        except BaseException:
            self.lock.release()
            raise

    def _settle(self, allow_config_change: bool) -> None:
        """What is left to settle before the first step, with the lock of the workdir."""
        config = self.config
        self._write_or_check_config(allow_config_change)
        self.saves = checkpoint.Checkpointer(
            self.workdir,
            keep_latest=config.checkpoint.keep_latest,
            keep_best=config.checkpoint.keep_best,
            best_metric=config.checkpoint.best_metric,
            best_mode=config.checkpoint.best_mode,
        )
        self.notes = dry_evaluation(self.experiment, self.prober)

    @functools.cached_property
    def prober(self) -> Prober:
        """Loads the probes' splits when they are first needed."""
        return Prober(self.config, self.mesh, workdir=self.workdir)

    @functools.cached_property
    def validator(self) -> Prober:
        """The prober of evaluations during training, on `eval.validation_split` if it is set."""
        split = self.config.eval.validation_split
        return self.prober if split is None else self.prober.scored_on(split)

    def _write_or_check_config(self, allow_change: bool) -> None:
        """Writes config.json, or checks that the existing one is the same config.

        A run that is further than the config asks for keeps the one of which its checkpoints are.
        """
        path = self.workdir / "config.json"
        if path.exists():
            saved = config_lib.from_json(storage.read_text(path), str(path))
            changes = config_lib.difference(saved, self.config)
            # A run that ended before its first step has nothing to lose.
            keep = not allow_change and self._has_begun()
            if keep:
                class_names.check_same(
                    saved.data.class_names,
                    self.config.data.class_names,
                    self.source.name,
                    "name them as they were, choose another --workdir, or continue with "
                    "--allow_config_change, which matches classes by number",
                )
            if changes and keep:
                raise UserError(
                    f"{self.workdir} holds a run of another config ({'; '.join(changes)}); choose "
                    "another --workdir, or continue with --allow_config_change"
                )
        saved_steps = steps.committed(self.workdir / "checkpoints")
        further = bool(saved_steps) and saved_steps[-1] > self.length.total_steps
        keep_file = path.exists() and further and not allow_change
        parallel.barrier("config")
        if self.primary and not keep_file:
            try:
                self.workdir.mkdir(parents=True, exist_ok=True)
                storage.write_whole(path, config_lib.to_json(self.config))
                tokenizer = self.source.tokenizer_json()
                if tokenizer is not None:  # for exports, and to decode token ids
                    storage.write_whole(self.workdir / "tokenizer.json", tokenizer)
            except OSError as error:
                raise UserError(f"--workdir={self.workdir} cannot be written: {error}") from error

    def _known_class_names(self) -> tuple[str, ...] | None:
        """Names of the classes of the run in the workdir; None if there is none or it has none."""
        path = self.workdir / "config.json"
        if not path.exists() or not self._has_begun():
            return None
        return config_lib.from_json(storage.read_text(path), str(path)).data.class_names

    def _has_begun(self) -> bool:
        """Whether a run in the workdir has logged or saved anything."""
        saved = steps.committed(self.workdir / "checkpoints")
        return bool(saved or metrics.read_metrics(self.workdir))

    def execute(self, *, final_evaluation: bool = True) -> int:
        """Trains to the end, then evaluates and reports, and gives the workdir back.

        Args:
          final_evaluation: False skips the evaluation and the report.

        Returns:
          The exit code.
        """
        try:
            code = self._execute(final_evaluation)
            self.lock.check()
            return code
        except (OSError, RunError):
            self.lock.check()  # if the workdir is gone, this is why
            raise
        finally:
            self.lock.release()

    def _execute(self, final_evaluation: bool) -> int:
        lines = preflight.lines(self.experiment, self.source)
        lines += [("note", note) for note in self.notes]
        self._print(preflight.text(lines))
        with StopRequest() as stop, self.saves, jax.set_mesh(self.mesh):
            restored = self.saves.restore(self.experiment.abstract_state)
            state, start = restored or (self._first_state(), 0)
            rows = [r for r in metrics.read_metrics(self.workdir) if r["step"] <= start]
            over = start >= self.length.total_steps or self.stopping.stops(rows)
            if over and final_results.is_finished(self.workdir, start):
                if final_evaluation and final_results.lacks_report(self.experiment, self.workdir):
                    self._print(f"the run is finished (step {start}): its report page is missing")
                    del state, restored  # two states may not fit in memory
                    self._write_missing_report(lines)
                else:
                    lines = final_results.not_computed_lines(self.workdir)
                    lines += final_results.lacking_lines(self.workdir, self._final_evaluations())
                    finished = f"the run is finished (step {start}): nothing to do"
                    self._print("\n".join([finished, *lines]))
                return 0
            if restored:
                self._print(f"continuing from step {start} of {self.length.total_steps}")
            with self._writer(start) as writer:
                step = start
                if not over:
                    state, step, over = self._train(state, start, writer, stop, rows)
                if not over:
                    self._print(f"stopped at step {step}, saved; the same command continues")
                    return stop.exit_code
                self.experiment.drop_train_step()
                memory.release()
                use_best = final_evaluation and self.stopping.best
                best = self.saves.best_step() if use_best else None
                if use_best and best is None:
                    self._print(f"the results are those of the last step: {self.stopping.metric} "
                                "was not measured")  # fmt: skip
                elif best not in (None, step):
                    self._print(f"the results are those of step {best}, the best by "
                                f"{self.stopping.metric}")  # fmt: skip
                    del state  # two states may not fit in memory
                    state, _ = self.saves.restore(self.experiment.abstract_state, best)
                if final_evaluation:
                    final_results.evaluate_and_report(
                        self.experiment, self.prober, self.experiment.evaluated(state),
                        self.source, self.workdir, lines,
                        last_step=step,
                    )  # fmt: skip
        return 0

    def _final_evaluations(self) -> tuple[Evaluation, ...]:
        try:
            return self.prober.evaluations(self.config.eval.final_names, self.experiment.method)
        except UserError:  # such as a split that is not there any more
            return ()

    def _write_missing_report(self, lines: list[tuple[str, str]]) -> None:
        """Writes the page of the results that are there; a failure is a line of warning."""
        try:
            step = final_results.evaluated_step(self.workdir)
            state, _ = self.saves.restore(self.experiment.abstract_state, step)
        except Exception as error:
            failures.warn("the report page", error)
            return
        final_results.write_missing_report(
            self.experiment, self.prober, self.experiment.evaluated(state), self.source,
            self.workdir, lines,
        )  # fmt: skip

    def _first_state(self) -> TrainState:
        state, lines = first_state(self.experiment, self.source.tokenizer_json())
        if lines:
            self._print("\n".join(f"starts from {line}" if i == 0 else f"  {line}"
                                  for i, line in enumerate(lines)))  # fmt: skip
        return state

    def _train(
        self,
        state: TrainState,
        start: int,
        writer: metrics.MetricWriter,
        stop: StopRequest,
        rows: list[metrics.Row],
    ) -> tuple[TrainState, int, bool]:
        """Trains from `start` to the end or a stop.

        Args:
          rows: metric rows up to `start`.

        Returns:
          The saved state, its step, and whether the run is over.
        """
        total = self.length.total_steps
        evaluated = [row for row in rows if self.stopping.metric in row]
        bar = progress.ProgressBar(total, start, primary=self.primary)
        jax.block_until_ready(state)
        with compiler_thread.yielding(self.mesh):
            train_step = self.experiment.compiled_train_step
        memory.release()
        meter = self._meter(start)
        step_logger = StepLogger(self.experiment, self.source, writer, bar, meter, rows)
        refresh = Refresher(self.experiment, self.source)
        profiler = Profiler(self.config.profile_steps, self.workdir / "profile")
        shared_stop = SharedStop(stop, start, self.config.log.every_steps)
        step, early = start, False
        with bar, self.batches(start) as batches, profiler:
            for step in range(start + 1, total + 1):
                if refresh.due(step - 1):
                    with meter.pause():
                        state = refresh(state, step - 1)
                with meter.data_wait():
                    batch = next(batches)
                profiler.step(step)
                state, values, outputs = train_step(state, batch)
                step_logger.step(step, values, outputs)
                stopping = shared_stop.after(step)
                if stopping or self._due(step):
                    step_logger.flush()  # waits for the device; this counts as training time
                    with meter.pause():
                        step_logger.check_losses()
                        evaluated.append(
                            self._evaluate_and_save(state, step, step_logger, writer, stopping)
                        )
                        early = not stopping and self.stopping.stops(evaluated)
                        if early:
                            bar.message(f"step {step}: {self.stopping.patience} evaluations "
                                        f"without a better {self.stopping.metric}")  # fmt: skip
                if stopping or early:
                    break
            self.saves.wait()
        return state, step, early or step == total

    def _evaluate_and_save(
        self,
        state: TrainState,
        step: int,
        step_logger: StepLogger,
        writer: metrics.MetricWriter,
        stopping: bool,
    ) -> dict[str, float]:
        """Evaluates if it is due, saves a checkpoint with the metrics, and returns the metrics."""
        self.lock.check()
        every = self.length.eval_every
        last = step == self.length.total_steps
        values = {}
        if every and (step % every == 0 or last) and not stopping:
            values = self._validate(self.experiment.evaluated(state), step)
        row = {f"eval/{name}": value for name, value in values.items()}
        if values:
            step_logger.evaluation(step, values)
        writer.flush()  # the rows up to a checkpoint must be on disk before it
        self.saves.save(step, state, metrics=row or None)
        return row

    def _validate(self, state: TrainState, step: int) -> dict[str, float]:
        """The metrics of the evaluations during training.

        An evaluation that fails is a line of warning, and its metrics are missing.
        """

        def on_error(name: str, error: Exception) -> None:
            failures.warn(f"evaluation {name!r} at step {step}", error)

        try:
            chosen = self.validator.evaluations(self.config.eval.names, self.experiment.method)
        except Exception as error:
            failures.warn(f"the evaluation at step {step}", error)
            return {}
        if not chosen:
            return {}
        model = self.experiment.model(state.weights)
        return self.validator.evaluate(model, chosen, on_error=on_error)

    def _due(self, step: int) -> bool:
        """Whether to save, and perhaps evaluate, after this step."""
        every = self.length.eval_every
        return (
            step == self.length.total_steps
            or step % self.length.checkpoint_every == 0
            or bool(every and step % every == 0)
        )

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Any]]:
        """Global device batches from the update after `start` to the end."""
        config = self.config
        rows = parallel.local_rows(self.mesh, config.batch_size)
        host = data.batches(
            self.source,
            batch_size=config.batch_size,
            seed=config.seed,
            sampler=data.sampler_from_config(config.data.sampler),
            start_step=start,
            num_steps=self.length.total_steps - start,
            rows=rows,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
        )

        def put(batch: Any) -> Any:
            return parallel.to_global(batch, self.mesh, rows, config.batch_size)

        with host, parallel.prefetch_to_device(host, put, config.data.prefetch) as batches:
            yield batches

    def _meter(self, start: int) -> progress.Throughput:
        """Measures speed, and utilisation if the device's peak is known."""
        peak = parallel.peak_flops(self.mesh.devices.flat[0].device_kind)
        return progress.Throughput(
            self.config.batch_size,
            units=self.source.units_per_example,
            metric=modalities.of(self.experiment.spec).throughput_metric,
            start_step=start,
            flops_per_step=model_flops(self.experiment) if peak else None,
            peak_flops=peak and peak * self.mesh.size,
        )

    def _writer(self, start: int) -> metrics.MetricWriter:
        log = self.config.log
        return metrics.MetricWriter(
            self.workdir,
            tensorboard=log.tensorboard,
            wandb={"project": log.wandb_project} if log.wandb else None,
            config=self.config.to_dict(),
            resume_step=start,
            primary=self.primary,
        )

    def _print(self, text: str) -> None:
        if self.primary:
            print(text, flush=True)
