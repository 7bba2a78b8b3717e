"""Loads evaluations by name: a module of this package, or a config section that names one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals import metric as metric_lib
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

Section = Mapping[str, Any]
LABEL = "label"
# The dataclass of a module that declares its options there.
_DECLARED = "Options"
# Keys of an evaluation's section that are not options of its function.
_KIND, _TARGET, _FEATURE = "evaluation", "target", "feature"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation with its options.

    Attributes:
      name: prefix of its metrics in logs: `name/metric`.
      module: the module of the evaluation.
      options: values by name.
      target: the array that it gets as `label`.
      feature: the output of the method that it evaluates; None: the output that the caller names.
    """

    name: str
    module: ModuleType
    options: Mapping[str, Any]
    target: str = LABEL
    feature: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays that it needs in addition to the features."""
        return tuple(self.target if name == LABEL else name for name in self.module.NEEDS)

    @property
    def has_target(self) -> bool:
        """Whether it learns or scores classes."""
        return LABEL in self.module.NEEDS

    @property
    def of_run_classes(self) -> bool:
        """Whether it scores predictions of the classes that the model has learned."""
        return getattr(self.module, "OF_RUN_CLASSES", False)

    @property
    def of_model(self) -> bool:
        """Whether it takes the model instead of features."""
        return hasattr(self.module, "evaluate_model")

    @property
    def of_features(self) -> bool:
        """Whether it can evaluate any output of a method, and raw inputs."""
        return not self.of_model or "feature" in self._parameters

    @property
    def takes_tokens(self) -> bool:
        """Whether it takes all tokens of an example, [n p d], and one target an example."""
        return getattr(self.module, "TOKENS", False)

    @property
    def takes_split_rows(self) -> bool:
        """Whether its features may be `SplitRows`, of which each process has its own."""
        return getattr(self.module, "SPLIT", False)

    @property
    def automatic(self) -> bool:
        """Whether it runs without being named, if it applies."""
        return getattr(self.module, "AUTOMATIC", False)

    @property
    def fits(self) -> bool:
        """Whether it fits or selects something on the train split."""
        return getattr(self.module, "FITS", True) if self.of_model else "train" in self._parameters

    @property
    def other_outputs(self) -> tuple[str, ...]:
        """Outputs that its options name, in addition to the evaluated one."""
        if not hasattr(self.module, "outputs"):
            return ()
        return self.module.outputs(**self.options)

    @property
    def other_splits(self) -> dict[str, str]:
        """Splits that its options name, by config key."""
        if not hasattr(self.module, "splits"):
            return {}
        named = self.module.splits(**self.options)
        return {f"eval.{self.name}.{option}": split for option, split in named.items()}

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(_function(self.module)).parameters

    def applies(self, method: Method, spec: DataSpec) -> bool:
        """Whether it applies to the method, trained on data with this spec."""
        return not hasattr(self.module, "applies") or self.module.applies(method, spec)

    def check_applies(self, method: Method, spec: DataSpec) -> None:
        """Raises UserError if it does not apply to the method on these data."""
        if not self.applies(method, spec):
            raise UserError(
                f"evaluation {self.name!r} is not for method {method.title} on these data; leave "
                "it out of --evals, eval.names and eval.final_names"
            )

    def feature_of(self, default: str) -> str:
        """The output that it evaluates, if the caller names `default`."""
        return default if self.feature is None else self.feature

    def metric(self, name: str) -> Metric | None:
        """The declaration of one of its metrics; None if it is not declared."""
        return metric_lib.find(self.module.METRICS, name)

    def check(self, known: Known) -> str:
        """Checks, before anything is computed, that the evaluation is possible.

        Returns:
          A note for the user, or "".

        Raises:
          UserError: it cannot be computed.
        """
        if not hasattr(self.module, "check"):
            return ""
        feature = {"feature": self.feature} if self.takes_tokens else {}
        with self._own_name():
            return self._renamed(self.module.check(known, **feature, **self.options) or "")

    def measures(self, known: Known) -> tuple[str, ...]:
        """Names of the metrics that it will measure on these data."""
        if hasattr(self.module, "measures"):
            return self.module.measures(known, **self.options)
        return tuple(self.module.METRICS)

    def call(self, **arguments: Any) -> dict[str, float]:
        """Runs the evaluation and returns its metrics, "name/metric" -> value.

        Args:
          arguments: available arguments; the function gets those that it declares, and the options.

        Raises:
          UserError: as the function.
          ValueError: it returns a metric that it does not declare.
        """
        parameters = self._parameters
        accepted = {name: value for name, value in arguments.items() if name in parameters}
        with self._own_name():
            return self._named(_function(self.module)(**accepted, **self._arguments))

    @property
    def _arguments(self) -> Mapping[str, Any]:
        """The options as arguments of the function."""
        if not hasattr(self.module, _DECLARED):
            return self.options
        return {"options": getattr(self.module, _DECLARED)(**self.options)}

    @contextlib.contextmanager
    def _own_name(self) -> Iterator[None]:
        """Errors of the module name the section of this evaluation."""
        try:
            yield
        except UserError as error:
            message = self._renamed(str(error))
            if message == str(error):
                raise
            raise UserError(message) from error

    def _renamed(self, message: str) -> str:
        """A message of the module, which names the section of the module's own name."""
        own = self.module.__name__.rpartition(".")[2]
        return re.sub(rf"\beval\.{own}\b", f"eval.{self.name}", message)

    def baselines(
        self, model: Model, prober: Any, source: Any = None
    ) -> dict[str, dict[str, float]]:
        """The metrics of baselines by name, for an evaluation of models.

        Args:
          model: the evaluated model.
          prober: provides the splits.
          source: the training data of the model; None: no baselines that are fitted to them.
        """
        if not hasattr(self.module, "baselines"):
            return {}
        rows = self.module.baselines(model, prober, source)
        return {name: self._named(measured) for name, measured in rows.items()}

    def _named(self, measured: Mapping[str, float]) -> dict[str, float]:
        for name in measured:
            if self.metric(name.removesuffix(metric_lib.SPREAD)) is None:
                raise ValueError(f"evaluation {self.module.__name__} does not declare {name!r}")
        return {f"{self.name}/{name}": float(value) for name, value in measured.items()}


def names() -> list[str]:
    """Names of the evaluations: the modules of this package that declare METRICS."""
    return list(_files())


@functools.cache
def _files() -> tuple[str, ...]:
    import ssl_jax.evals as package

    files = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return tuple(
        name
        for name in files
        if hasattr(importlib.import_module(f"ssl_jax.evals.{name}"), "METRICS")
    )


def load(name: str, config: Section | None = None) -> Evaluation:
    """Loads an evaluation with the options of its section.

    Args:
      name: a module of this package, or a section of `config` whose key `evaluation` names one.
        With sections, one evaluation can run on several targets.
      config: the eval section.

    Raises:
      UserError: the name or an option is unknown, or an option has a bad value.
    """
    section = (config or {}).get(name)
    section = dict(section.items()) if hasattr(section, "items") else {}
    kind = section.pop(_KIND, name)
    module = _module(kind)
    options = fields.read(options_of(kind), section, f"eval.{name}")
    target, feature = options.pop(_TARGET, LABEL), options.pop(_FEATURE, None)
    if feature is None:
        feature = getattr(module, "FEATURE", None)
    return Evaluation(name, module, options, target, feature)


def load_all(names: Sequence[str], config: Section | None = None) -> tuple[Evaluation, ...]:
    """Loads the evaluations with these names, without duplicates."""
    return tuple(load(name, config) for name in dict.fromkeys(names))


def declarations(config: Section | None = None) -> dict[str, fields.Section]:
    """Declares the section of each evaluation, and each section of the config that names one.

    Args:
      config: the eval section.

    Raises:
      UserError: a section names an unknown evaluation.
    """
    out = {name: options_of(name) for name in names()}
    for name, section in config.items() if hasattr(config, "items") else ():
        if hasattr(section, "items") and _KIND in section:
            keys = {_KIND: fields.Key(str, doc="Name of the evaluation.")}
            kind = fields.check(fields.Section(keys, others=Any), section, f"eval.{name}")[_KIND]
            out[name] = fields.Section({**keys, **options_of(kind).keys})
    return out


@functools.cache
def options_of(name: str) -> fields.Section:
    """The keys that the section of an evaluation may have.

    Raises:
      UserError: the evaluation is unknown.
    """
    module = _module(name)
    declared = getattr(module, _DECLARED, None) or _function(module)
    keys = dict(fields.section(declared).keys)
    if LABEL in module.NEEDS and hasattr(module, "evaluate"):
        doc = "Array of the data to predict: one class per example, or one per frame."
        keys[_TARGET] = fields.Key(str, LABEL, doc)
    if hasattr(module, "evaluate") and not hasattr(module, "FEATURE"):
        doc = "Output of the method to evaluate; None: the outputs of eval.features."
        keys[_FEATURE] = fields.Key(str | None, None, doc)
    if getattr(module, "TOKENS", False):
        keys[_FEATURE] = fields.Key(str, module.FEATURE, "Output of the method with the tokens.")
    return fields.Section(keys)


def describe(key: str, config: Section | None = None) -> Metric | None:
    """The metric of a key of results such as "knn/top1"; None if no evaluation declares it.

    A key may begin with "eval/", as in the rows of a run.
    """
    name, kind, metric_name = _parts(key, config)
    if kind not in names():
        return None
    metric = metric_lib.find(_module(kind).METRICS, metric_name)
    if metric is None or kind == name:
        return metric
    return dataclasses.replace(
        metric,
        heading=f"{name} {metric.heading}",
        title=f"{metric.title}, {name}",
        sentence=metric.sentence and f"{metric.sentence}, {name}",
    )


def logged_as(key: str, config: Section | None = None) -> str | None:
    """The key under which training logs the metric of a key of results; None: it is not logged.

    For "held_out/accuracy" it is "train/accuracy": LOGGED_AS of the evaluation's module is the
    prefix of its metrics in the rows of training.
    """
    _, kind, metric_name = _parts(key, config)
    prefix = getattr(_module(kind), "LOGGED_AS", None) if kind in names() else None
    return None if prefix is None else prefix + metric_name


def describe_logged(key: str) -> Metric | None:
    """The metric of a key of training rows, if an evaluation declares it, see `logged_as`."""
    for name in names():
        prefix = getattr(_module(name), "LOGGED_AS", None)
        if prefix is not None and key.startswith(prefix):
            return metric_lib.find(_module(name).METRICS, key.removeprefix(prefix))
    return None


def _parts(key: str, config: Section | None) -> tuple[str, str, str]:
    """Splits a key of results: (name of the evaluation, its module, name of the metric)."""
    name, _, metric_name = key.removeprefix("eval/").partition("/")
    section = (config or {}).get(name)
    kind = section.get(_KIND, name) if hasattr(section, "items") else name
    return name, kind, metric_name


def automatic(config: Section | None = None) -> tuple[Evaluation, ...]:
    """The evaluations that run without being named, if they apply."""
    loaded = load_all(names(), config)
    return tuple(evaluation for evaluation in loaded if evaluation.automatic)


def _function(module: ModuleType) -> Callable[..., dict[str, float]]:
    return getattr(module, "evaluate_model", None) or module.evaluate


def _module(name: str) -> ModuleType:
    known = _files()
    if name not in known:
        raise UserError(
            f"unknown evaluation {name!r}; use one of {', '.join(known)}."
            f"{nearest(str(name), known)}"
        )
    return importlib.import_module(f"ssl_jax.evals.{name}")
