"""Pretrains: python -m ssl_jax.train --config=configs/simclr.py:digits --workdir=runs/x

The same command again continues an interrupted run, bit for bit; on a finished run it does nothing,
and with more epochs it extends it. Exit codes: 0 finished, 143 after SIGTERM and 130 after SIGINT
(the state is saved), 1 for errors.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from ssl_jax import checkpoint, command, data, finish, metrics, parallel, preflight
from ssl_jax import config as config_lib
from ssl_jax.errors import UserError
from ssl_jax.evals import collapse
from ssl_jax.experiment import Experiment, use_compilation_cache
from ssl_jax.probing import Prober
from ssl_jax.signals import StopRequest
from ssl_jax.train_state import TrainState


class Run:
    """One run in its workdir: the loop and everything that watches it.

    Args:
      config: a resolved config.
      workdir: where the run lives; made if missing, continued if it holds a run of this config.
      allow_config_change: continue although the workdir's config differs.
    """

    def __init__(self, config: ConfigDict, workdir: str, *, allow_config_change: bool = False):
        self.workdir = epath.Path(workdir)
        self.primary = jax.process_index() == 0
        self.source = data.from_config(config.data, seed=config.seed)
        self.config = config_lib.with_data_facts(config, self.source.spec)
        self.experiment = Experiment.build(self.config, self.source.spec)
        self._settle_config(allow_config_change)
        self.length = self.experiment.length
        self.mesh = self.experiment.mesh
        self.saves = checkpoint.Checkpointer(
            self.workdir,
            keep_latest=config.checkpoint.keep_latest,
            keep_best=config.checkpoint.keep_best,
            best_metric=config.checkpoint.best_metric,
            best_mode=config.checkpoint.best_mode,
        )
        self.prober: Prober | None = None
        self.monitor = collapse.Monitor()
        self.encode = self.experiment.features_fn()
        self.diagnose = jax.jit(collapse.diagnostics)

    def _settle_config(self, allow_change: bool) -> None:
        """Writes config.json, or checks that the one there says the same."""
        path = self.workdir / "config.json"
        if path.exists():
            changes = config_lib.difference(config_lib.from_json(path.read_text()), self.config)
            if changes and not allow_change:
                raise UserError(
                    f"{self.workdir} holds a run of another config ({'; '.join(changes)}); choose "
                    "another --workdir, or continue with --allow_config_change"
                )
        parallel.barrier("config")
        if self.primary:
            self.workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(config_lib.to_json(self.config))

    def execute(self) -> int:
        """Trains to the end, probes, reports. Returns the exit code."""
        total = self.length.total_steps
        lines = preflight.lines(self.experiment)
        if self.primary:
            print(preflight.text(lines), flush=True)
        with self.saves, jax.set_mesh(self.mesh):
            restored = self.saves.restore(self.experiment.abstract_state())
            state, start = restored or (self.experiment.init_state(), 0)
            if restored and self.primary:
                print(f"continuing from step {start} of {total}", flush=True)
            if start >= total and finish.is_finished(self.workdir, start):
                if self.primary:
                    print(f"the run is finished (step {start}): nothing to do", flush=True)
                return 0
            writer = metrics.MetricWriter(
                self.workdir,
                tensorboard=self.config.log.tensorboard,
                wandb={"project": self.config.log.wandb_project} if self.config.log.wandb else None,
                config=self.config.to_dict(),
                resume_step=start,
                primary=self.primary,
            )
            with writer, StopRequest() as stop:
                for row in metrics.read_metrics(self.workdir):
                    self.monitor.update(row["step"], collapse.values_of(row))
                state, step = self._loop(state, start, writer, stop)
                if step < total:
                    return stop.exit_code
                finish.finish(
                    self.experiment, self._prober(), state, self.source, self.workdir,
                    preflight_text=preflight.text(lines), writer=writer,
                )  # fmt: skip
        return 0

    def _loop(
        self, state: TrainState, start: int, writer: Any, stop: StopRequest
    ) -> tuple[TrainState, int]:
        """Steps from `start` to the end or a stop. Returns the state and its step, saved."""
        config, length = self.config, self.length
        if start >= length.total_steps:
            return state, start
        train_step = self.experiment.compile_train_step()
        bar = metrics.ProgressBar(
            total_steps=length.total_steps,
            start_step=start,
            batch_size=config.batch_size,
            primary=self.primary,
            peak_flops=None,
        )
        ...
