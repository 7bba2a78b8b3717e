"""Bad values of every key of every config, through what a run does before its first step.

Each bad value is refused in one line, or it is on the list `ACCEPTED`, with the reason. Keys that
configs share are tried once.
"""

import fnmatch
import math
import os

import jax
import pytest

from ssl_jax import config as config_lib
from ssl_jax.cli.train import dry_run
from ssl_jax.config import fields
from ssl_jax.config.listing import flat
from ssl_jax.config.schema import schema
from ssl_jax.core.errors import UserError
from ssl_jax.experiment import preflight
from ssl_jax.pretrained import init_from
from ssl_jax.run.loop import Run
from tests.config.tiny_nets import name_net
from tests.methods.table import ROWS

pytestmark = pytest.mark.slow

BAD = {"nan": math.nan, "infinite": math.inf, "negative": -1, "huge": 1e12, "long": 10**12,
       "word": "abc", "none": None, "empty": (), "section": {"a": 1}}  # fmt: skip
# (kind of value, keys, why the value is no mistake, or why it cannot be told before the first step)
ACCEPTED = (
    ("negative", "eval.task.null_threshold", "a difference of two logits has any sign"),
    ("huge", "checkpoint.every_epochs eval.every_epochs", "rarer than once a run: at the end only"),
    ("huge", "optimizer.warmup_epochs optimizer.frozen_epochs",
     "cut to the length of the run, and a note says so"),
    ("huge", "method.beta_warmup_epochs", "longer than the run: it rises for the whole run"),
    ("huge", "optimizer.base_lr optimizer.lr_factor optimizer.final_lr_factor optimizer.eps "
             "optimizer.decay_factor optimizer.weight_decay optimizer.weight_decay_end "
             "optimizer.clip.norm optimizer.trust_coefficient",
     "scales without an upper end that all recipes share; a loss that is not finite ends the run"),
    ("huge", "method.temperature method.*_temperature method.margin method.beta method.free_nats "
             "method.noise_std method.epsilon method.covariance method.invariance method.variance "
             "method.off_diagonal_weight method.proximal method.patch_weight method.overlap_weight "
             "method.koleo_weight method.l1 model.norm_eps model.layer_scale "
             "model.position_std model.init_std adapt.alpha method.z_weight",
     "temperatures, weights and scales of losses and layers, as above"),
    ("negative", "method.second_margin", "then the negatives' distances may be smaller"),
    ("huge", "method.scale method.sigma method.second_margin method.mining_margin "
             "method.l2_weight method.center_weight method.margin_power",
     "weights and scales of losses, as above"),
    ("huge", "method.mix.mixup method.mix.cutmix", "all shares are 1/2"),
    ("huge", "method.span_length", "a row has one span at least"),
    ("huge", "*.rand_augment.magnitude_std", "magnitudes are clipped"),
    ("huge", "nets.context.scale", "a scale of scores, as a temperature"),
    ("huge", "method.sample method.max_pairs", "no limit: no word is left out or scaled"),
    ("huge", "eval.attentive.max_gib eval.feature_map.max_gib",
     "no limit: the tokens are computed once"),
    ("huge", "views.color_jitter.strength views.color_jitter.brightness "
             "views.color_jitter.contrast views.color_jitter.saturation views.gaussian_noise.std",
     "images are clipped to [0, 1]"),
    ("huge", "eval.knn.temperature eval.few_shot.* eval.linear.l2_max eval.linear.tolerance "
             "eval.mlp.* eval.active_units.threshold eval.task.null_threshold "
             "eval.segmentation.temperature eval.segmentation.weight_decay "
             "eval.boosted_trees.learning_rate "
             "eval.feature_map.learning_rate eval.feature_map.weight_decay "
             "eval.factor_vae_metric.min_std eval.lidar.delta",
     "scales of one evaluation, and its results show them"),
    ("huge", "early_stopping.min_delta", "no improvement is that large: it stops after `patience`"),
    ("word", "compilation_cache data.options.cache_dir", "a folder, made where it is missing"),
    ("word", "data.options.label_key data.options.image_key data.options.root data.options.suffix",
     "a column, a folder and an ending, looked for when the file is read"),
    ("word", "log.wandb_project", "a name in another service"),
    ("word", "eval.prompting.calibration eval.prompting.template.instruction "
             "eval.prompting.template.separator", "texts of prompts"),
    ("word", "optimizer.exclude", "a pattern; the numbers of excluded parameters are printed"),
    ("word", "eval.accuracy.target eval.active_units.feature eval.attentive.feature "
             "eval.analogies.path eval.word_similarity.path eval.retrieval.* "
             "eval.anomaly.known eval.verification.pairs eval.prompting.data "
             "eval.prompting.train_split eval.prompting.test_split",
     "of an evaluation that the config does not name"),
    ("section", "eval.prompting.options", "as above"),
    ("none", "data.options.text_pair_key", "texts alone, not in pairs"),
    ("none", "data.options.vocab_size", "the size of the published tokenizers"),
    ("none", "data.options.label_key", "texts without labels"),
    ("none", "eval.task.null_threshold", "the best one is looked for"),
    ("empty", "eval.names eval.final_names", "no evaluations"),
    ("empty", "eval.properties.layers eval.properties.disentanglement", "these are left out"),
    ("empty", "views.ops", "images as they are"),
    ("empty", "model.widths nets.decoder.widths method.hidden_dims",
     "no hidden layers: a linear map"),
)  # fmt: skip
TEACHER = "runs/teacher"  # of the method table; no such run is read
TEXTS = ("", "nan", "1e999", "'", '"a', "(1, 2", "(1, 2)", "{", "{'a': 1}", "None")


def sources():
    """Resolved configs: the tiny ones of the method table, then every variant."""
    for row in ROWS.values():
        config = row.load()
        if config.data.name.startswith("text:"):  # it has no other split
            config = config_lib.resolve(replaced(config, {"eval.test_split": "train"}))
        yield config
    for name in config_lib.names():
        module, _ = config_lib.load_module(name)
        if not hasattr(module, "get_config") or hasattr(module, "get_sweep"):
            continue
        for variant in module.VARIANTS:
            config = config_lib.load(f"{name}:{variant}")
            name_net(config, variant)
            if config.method.name == "distill":
                config.init_from = TEACHER
            if config.data.name.endswith(":"):  # whose place the command line says
                config.data.name += "place"
            # As if they had been read.
            if config.data.name in ("pydoc", "mappings", "csv:/path/texts.csv"):
                config.data.update(num_examples=1000, num_classes=4)
            yield config_lib.resolve(config)


@pytest.fixture(scope="module")
def keys():
    """(path, declaration, value, config): each declared key, in the first config that has it."""
    seen, out = set(), []
    for config in sources():
        declared = schema(config)
        for path, value in flat(fields.check(declared, config, "")):
            key = fields.find(declared, path)
            section, name = path.partition(".")[0], path.rpartition(".")[2]
            what = (section, name, fields.type_text(key.type), key.doc)
            if what not in seen:
                seen.add(what)
                out.append((path, key, value, config))
    return out


def replaced(config, values):
    """A copy of a config with other values, of whatever type, at dotted paths."""
    config = config.copy_and_resolve_references().unlock()
    for path, value in values.items():
        *above, name = path.split(".")
        section = config
        for part in above:
            section = section[part]
        if name in section:
            del section[name]  # with the type that it had
        section[name] = value
    return config


def is_accepted(kind, path):
    return any(
        kind == listed and any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns.split())
        for listed, patterns, _ in ACCEPTED
    )


def refusal(function, *arguments):
    """The message with which a function refuses its arguments; None if it does not."""
    try:
        function(*arguments)
    except UserError as error:
        assert "\n" not in str(error), str(error)
        return str(error)
    return None


def start(config, values, workdir):
    """What `ssl_jax train` does before it compiles the train step, and traces that step.

    Where the data are not at hand, what `--dry_run` does.
    """
    config = config_lib.resolve(replaced(config, values))
    name, _, location = config.data.name.partition(":")
    if name not in ("digits", "shapes") and not os.path.exists(location):
        dry_run(config)
        return
    run = Run(config, str(workdir))
    experiment = run.experiment
    try:
        preflight.lines(experiment, run.source)
        if config.init_from not in (None, TEACHER):
            init_from.load(config.init_from, experiment, run.source.tokenizer_json())
        with run.batches(0) as batches, jax.set_mesh(experiment.mesh):
            next(batches)
            experiment.train_step.trace(experiment.abstract_state, experiment.abstract_batch())
    finally:
        run.lock.release()


@pytest.fixture(scope="module")
def survivors(keys):
    """(kind, path, config): the bad values that the types and bounds of their keys take."""
    out = []
    for number, (path, key, current, config) in enumerate(keys):
        section = fields.Section({"key": key})
        decides = path.endswith((".name", ".evaluation", ".ops"))
        for position, (kind, value) in enumerate(BAD.items()):
            if value in (current, key.default):
                continue
            message = refusal(fields.read, section, {"key": value}, path)
            assert message is None or path in message, (path, kind, message)
            # The whole way takes longer: one kind of value a key, and all where the value decides
            # which other keys there are.
            if message is not None and (decides or position == number % len(BAD)):
                message = refusal(config_lib.resolve, replaced(config, {path: value}))
            if message is None:
                out.append((kind, path, config))
    return out


def test_a_bad_value_that_is_not_listed_is_refused_before_the_first_step(
    survivors, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    accepted, tracebacks = [], {}
    for number, (kind, path, config) in enumerate(survivors):
        if is_accepted(kind, path):
            continue
        try:
            if refusal(start, config, {path: BAD[kind]}, tmp_path / str(number)) is None:
                accepted.append(f"{path}={BAD[kind]!r}")
        except Exception as error:
            tracebacks[f"{path}={BAD[kind]!r}"] = repr(error)
    assert not tracebacks, "\n".join(f"{text}: {error}" for text, error in tracebacks.items())
    assert not accepted, "\n".join(accepted)


def test_listed_values_start_a_run(survivors, tmp_path, monkeypatch):
    """All values of a kind that are on the list, set in a config at once.

    Configs without such a value start as they are: a refusal of the other test is of its value.
    """
    monkeypatch.chdir(tmp_path)  # some values are names of folders
    (tmp_path / TEACHER).mkdir(parents=True)  # it is looked for at once, and read later
    groups = {}
    for kind, path, config in survivors:
        if is_accepted(kind, path):
            groups.setdefault((kind, id(config)), (config, {}))[1][path] = BAD[kind]
    started = {config for _, config in groups}
    for _, _, config in survivors:
        if id(config) not in started:
            groups[None, id(config)] = (config, {})
    for number, (config, values) in enumerate(groups.values()):
        try:
            start(config, values, tmp_path / str(number))
        except Exception as error:
            raise AssertionError(f"refused, or a traceback: {values}") from error


def test_no_entry_of_the_list_is_stale(survivors):
    stale = [
        (listed, pattern, reason)
        for listed, patterns, reason in ACCEPTED
        for pattern in patterns.split()
        if not any(
            kind == listed and fnmatch.fnmatchcase(path, pattern) for kind, path, _ in survivors
        )
    ]
    assert not stale, "\n".join(map(str, stale))


def test_each_odd_text_of_a_command_line_is_read_or_refused_in_one_line(keys):
    """Text is taken as it stands by keys of texts; others refuse what is no value of their type."""
    for number, (path, key, _, config) in enumerate(keys):
        section = fields.Section({"key": key})
        for position, text in enumerate(TEXTS):
            message = refusal(fields.parse, section, "key", text)
            takes_text = "a text" in fields.type_text(key.type)
            if message is None and not takes_text:
                value = fields.parse(section, "key", text)
                is_section = isinstance(value, dict) and text == "{'a': 1}"
                assert value in (None, (), {}) or text == "(1, 2)" or is_section, (
                    path,
                    text,
                    value,
                )
            if position == number % len(TEXTS):  # the whole way, which takes longer
                whole = refusal(config_lib.apply, config, {path: text})
                assert whole is not None or message is None, (path, text, message)
