"""Texts continued by a run: from strings to strings, and mistakes."""

import types

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.cli import generate
from ssl_jax.core.errors import UserError
from ssl_jax.data.text.token_bytes import token_bytes
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import trained_run
from ssl_jax.pretrained.trained_run import TrainedRun
from tests.methods import table

PROMPTS = ["Licensed", "The Work, and each Contributor", "a"]
SHORT = dict(max_new_tokens=8, temperature=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained model of the text of a licence, whose every token is made confident."""
    config = table.ROWS["gpt"].load(model__dropout=0.0)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    weights = experiment.init_state().weights
    weights = weights._replace(params=jax.tree.map(lambda p: 6 * p, weights.params))
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer.json").write_text(source.tokenizer_json())
    return TrainedRun(config, experiment, 0, weights, str(folder))


def test_a_completion_is_that_of_the_prompt_alone(run):
    together = run.generate(PROMPTS, **SHORT)
    assert len(together) == 3 and all(isinstance(text, str) for text in together)
    assert [run.generate([prompt], batch_size=3, **SHORT)[0] for prompt in PROMPTS] == together
    # More prompts than a batch holds, the last batch not full.
    assert run.generate([*PROMPTS, PROMPTS[0]], batch_size=3, **SHORT) == [*together, together[0]]
    # It is what the whole forward pass predicts.
    tokenizer = run._tokenizer()
    ids, _ = tokenizer.encode([PROMPTS[1]])
    tokens = [run.experiment.method.end_token, *ids.tolist()]
    encode = jax.jit(run.experiment.method.features)
    table_of_tokens = np.asarray(run.weights.params["encoder"]["embed"]["token"]["embedding"])
    for _ in range(8):
        row = np.zeros((1, 32), np.int32)
        row[0, : len(tokens)] = tokens
        batch = dict(tokens=row, segment=np.ones_like(row), position=np.arange(32)[None])
        vector = np.asarray(encode(run.weights, batch)["tokens"])[0, len(tokens) - 1]
        tokens.append(int((table_of_tokens @ vector).argmax()))
        if tokens[-1] == run.experiment.method.end_token:
            break
    contents = token_bytes(tokenizer)
    expected = b"".join(contents[token] for token in tokens[1 + len(ids) :])
    assert together[1] == expected.decode("utf-8", "replace")


def test_a_stop_string_is_cut_off(run):
    (text,) = run.generate(PROMPTS[1:2], **SHORT)
    stop = text[len(text) // 2 :][:2]
    (stopped,) = run.generate(PROMPTS[1:2], stop=["\0", stop], **SHORT)
    assert stopped == text[: text.index(stop)]


def test_the_seed_selects_the_draws(run):
    one, again, other = (
        run.generate(PROMPTS, max_new_tokens=8, top_p=0.9, top_k=40, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one == again != other


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([""], {}, "prompt 0 is empty"),
        ([], {}, "there is no prompt"),
        (["word " * 40], SHORT, r"the prompt 'word .* tokens, .* does not fit .* of 32 tokens"),
        (["a"], {"max_new_tokens": 32}, "with max_new_tokens=32 it does not fit"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (["a"], {"temperature": -1}, "temperature is -1"),
        (["a"], {"top_p": 0.0}, "top_p is 0.0"),
        (["a"], {"top_k": -1}, "top_k is -1"),
        (["a"], {"stop": [""], **SHORT}, "a stop string is empty"),
        ("text", {}, "prompts is a single string"),
    ],
)
def test_mistakes_are_named(run, prompts, options, message):
    with pytest.raises(UserError, match=message):
        run.generate(prompts, **options)


def test_other_methods_do_not_generate(run):
    method = types.SimpleNamespace(title="BERT")
    experiment = types.SimpleNamespace(method=method)
    other = TrainedRun(run.config, experiment, 0, run.weights, "runs/bert")
    with pytest.raises(UserError, match="runs/bert was trained by method BERT, which does not gen"):
        other.generate(["a"])


def test_the_command_prints_prompts_and_completions(run, monkeypatch, capsys):
    options = dict(
        workdir=run.workdir, step=None, weights=None, prompt=PROMPTS[:2], max_new_tokens=8,
        temperature=0.0, top_k=0, top_p=1.0, stop=[], seed=0,
    )  # fmt: skip

    class Flags(types.SimpleNamespace):
        def __getitem__(self, name):
            return types.SimpleNamespace(value=getattr(self, name))

    monkeypatch.setattr(generate.flags, "FLAGS", Flags(**options))
    monkeypatch.setattr(trained_run, "read_config", lambda workdir: run.config)
    monkeypatch.setattr(trained_run, "load", lambda *args, **kwargs: run)
    assert generate.main() == 0
    texts = run.generate(PROMPTS[:2], batch_size=2, **SHORT)
    assert capsys.readouterr().out == f"{PROMPTS[0]}{texts[0]}\n----\n{PROMPTS[1]}{texts[1]}\n"
    monkeypatch.setattr(generate.flags, "FLAGS", Flags(**options | {"prompt": []}))
    with pytest.raises(UserError, match="--prompt is missing"):
        generate.main()
