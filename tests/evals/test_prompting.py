"""Prompts: their text, their demonstrations, the scores of continuations, and mistakes."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import mappings
from ssl_jax.data.text import tokenizer as tokenizer_lib
from ssl_jax.data.text import tokenizer_training
from ssl_jax.evals import prompting
from ssl_jax.evals.known import Known
from ssl_jax.evals.model import Model
from ssl_jax.evals.prompts import questions, scoring
from ssl_jax.evals.prompts.template import Shown, Template
from ssl_jax.experiment.build import Experiment
from tests.methods import table


def options_of(**values):
    return fields.read(prompting.evaluate_model, values, "eval.prompting")


@pytest.fixture
def reviews(tmp_path):
    """(name, options) of 30 texts with classes in train and 6 in test, which train has too."""
    rows = [(f"film {i} was", ("good", "bad")[i % 2]) for i in range(30)]
    for split, some in (("train", rows), ("test", rows[:6])):
        lines = "".join(f"{text}\t{label}\n" for text, label in some)
        (tmp_path / f"{split}.tsv").write_text(f"text\tlabel\n{lines}")
    return f"csv:{tmp_path}/{{split}}.tsv", {"delimiter": "\t"}


def read(name, options, **more):
    defaults = dict(train_split="train", test_split="test", answers={}, limit=1000)
    return questions.read(name, options, **(defaults | more))


def test_prompts_are_rendered_byte_for_byte():
    translate = Template("Translate English to French:", "{text} => {answer}", "\n")
    shown = [
        Shown("sea otter", "loutre de mer"),
        Shown("peppermint", "menthe poivrée"),
        Shown("plush girafe", "girafe peluche"),
    ]
    assert translate.render(shown, Shown("cheese")).encode() == (
        b"Translate English to French:\n"
        b"sea otter => loutre de mer\n"
        b"peppermint => menthe poivr\xc3\xa9e\n"
        b"plush girafe => girafe peluche\n"
        b"cheese =>"
    )
    assert translate.ask(Shown("cheese")) == ("cheese =>", " ")
    # Code and its description; a line end may be written as \n, and braces of the code stay.
    describe = Template("", "Code:\\n{text}\\nDescription: {answer}", "\\n\\n")
    shown = [Shown("def f(x):\n    return {x: '{answer}'}", "makes a dictionary")]
    assert describe.render(shown, Shown("len(a) == 0", "is it empty?")) == (
        "Code:\ndef f(x):\n    return {x: '{answer}'}\nDescription: makes a dictionary\n\n"
        "Code:\nlen(a) == 0\nDescription:"
    )
    pair = Template("", "{text} Question: {pair} {answer}", "\n")
    assert pair.render([], Shown("A.", "", "B?")) == "A. Question: B?"
    # Another order of the demonstrations changes nothing but the prompt's lines.
    lines = translate.render(shown * 2, Shown("cheese")).split("\n")
    assert sorted(translate.render(shown[::-1] * 2, Shown("cheese")).split("\n")) == sorted(lines)


@pytest.mark.parametrize(
    "demonstration", ["{text}", "{answer} {text}", "{answer}", "{text} {answer}.", "{txt} {answer}"]
)
def test_a_demonstration_has_a_text_and_then_an_answer(demonstration):
    with pytest.raises(UserError, match="demonstration is"):
        options_of(template={"demonstration": demonstration})


def test_demonstrations_are_of_train_and_never_the_question_itself(reviews):
    found = read(*reviews, answers={"good": "great"})
    assert found.choices == ("bad", "great") and len(found.test) == 6
    few, many = (found.demonstrations(k, 3, of_group=False) for k in (4, 29))
    train = set(found.train)
    for question, some, more in zip(found.test, few, many, strict=True):
        assert some == more[:4] and set(some) <= train and len(set(more)) == 29
        assert question.shown.text not in {one.shown.text for one in more}
    assert found.demonstrations(4, 3, of_group=False) == few
    assert found.demonstrations(4, 4, of_group=False) != few
    assert few[0] != few[1]
    assert found.demonstrations(0, 0, of_group=False) == [[]] * 6
    assert len(read(*reviews, limit=2).test) == 2
    with pytest.raises(UserError, match="has 29 demonstrations in train, fewer than 30"):
        found.demonstrations(30, 0, of_group=False)


def test_mappings_of_test_are_in_no_document_of_train():
    """Every document is about one mapping; demonstrations are other words of the same mapping."""
    made = mappings.corpus("", documents=200)
    answer_of = {}
    for split in made.splits:
        answer_of[split] = set()
        for part in made.parts(split):
            pairs = {tuple(line.split(" -> ")) for line in part.text.split("\n")}
            assert len(part.text.split("\n")) == 12
            group_of = {w: g for g, words in enumerate(mappings.WORDS) for w in words}
            mapping = {group_of[word]: answer for word, answer in pairs}
            assert all(mapping[group_of[word]] == answer for word, answer in pairs)
            assert len(set(mapping.values())) == len(mapping)
            if len(mapping) == 4:
                answer_of[split].add(tuple(mapping[g] for g in range(4)))
    assert len(answer_of["train"]) > 100 and not answer_of["train"] & answer_of["test"]
    assert list(made.parts("train"))[7] == list(mappings.corpus("", documents=9).parts("train"))[7]
    other = mappings.corpus("", documents=200, mapping_seed=1)
    assert next(other.parts("train")).text != next(made.parts("train")).text

    found = read("mappings", {"task": "classify"})
    held_out = {tuple(mappings.ANSWERS[a] for a in m) for m in mappings.mappings("test", 0)}
    assert answer_of["test"] <= held_out and len(found.train) == 1536 and len(found.test) == 512
    assert {question.gold[0] for question in found.test} == set(found.choices)
    for question, some in zip(found.test, found.demonstrations(24, 0, of_group=True), strict=True):
        assert {one.group for one in some} == {question.group}
        assert question.shown.text not in {one.shown.text for one in some}


class Prober:
    """The parts of a prober that prompts need."""

    def __init__(self, source, dataset, devices=1):
        self.test, self.dataset = source, dataset
        self.mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        self.config = types.SimpleNamespace(eval=types.SimpleNamespace(batch_size=16))


@pytest.fixture(scope="module")
def gpt():
    """An untrained model of confident weights, its source and its experiment."""
    config = table.ROWS["gpt"].load(model__dropout=0.0)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    weights = experiment.init_state().weights
    weights = weights._replace(params=jax.tree.map(lambda p: 6 * p, weights.params))
    return experiment, weights, source


def test_scores_are_log_probabilities_whatever_stands_beside_them(gpt):
    experiment, w, source = gpt
    tokenizer = tokenizer_lib.Tokenizer.from_json(source.tokenizer_json())
    end = experiment.method.end_token
    texts = [("The Work", " of each"), ("", "a"), ("You may not", " use"), ("In no", " event")]
    pairs = scoring.tokenized(tokenizer, texts, end)
    held_out = experiment.model(w).held_out

    def scores(some, batch_size):
        return scoring.log_likelihoods(
            held_out, some, context=experiment.method.context, pad=source.spec.vocabulary.pad,
            batch_size=batch_size,
        )  # fmt: skip

    together = scores(pairs, 4)
    vectors = jax.jit(experiment.method.features)
    embedding = np.asarray(w.params["encoder"]["embed"]["token"]["embedding"], np.float64)
    for number, pair in enumerate(pairs):
        assert pair.context[0] == end
        tokens = np.array([[*pair.context, *pair.continuation]], np.int32)
        batch = dict(tokens=tokens, segment=np.ones_like(tokens))
        batch["position"] = np.arange(tokens.shape[1])[None]  # no padding
        logits = np.asarray(vectors(w, batch)["tokens"], np.float64)[0] @ embedding.T
        expected, greedy = 0.0, True
        for place in range(len(pair.context), tokens.shape[1]):
            row = logits[place - 1]
            top = row.max()
            expected += row[tokens[0, place]] - top - np.log(np.exp(row - top).sum())
            greedy &= bool(row.argmax() == tokens[0, place])
        assert abs(together.log_p[number] - expected) < 1e-5 * max(1, abs(expected))
        assert together.is_greedy[number] == greedy
        alone = scores([pair], 3)
        assert abs(alone.log_p[0] - together.log_p[number]) < 1e-5 * max(1, abs(expected))


def test_the_whole_text_is_tokenized_and_cut_where_the_context_ends():
    made = tokenizer_training.train(lambda: ["ab abc abcd"] * 9, "bpe", 300)
    for context, continuation in (("ab", " abc"), ("a", "bcd"), ("", "ab")):
        (pair,) = scoring.tokenized(made, [(context, continuation)], 9)
        ids, _ = made.encode([context + continuation])
        assert pair.continuation
        if len(made.encode([context])[0]) < len(ids):
            assert [*pair.context[1:], *pair.continuation] == ids.tolist()


def copying(tokenizer, group_of):
    """A `held_out` that answers as the last demonstration whose word is of the query's group."""
    words = tokenizer.token_texts()

    def held_out(batch):
        loss, hits, count = (np.zeros(len(batch["tokens"])) for _ in range(3))
        for row, (tokens, following) in enumerate(
            zip(np.asarray(batch["tokens"]), np.asarray(batch["next_token"]), strict=True)
        ):
            (places,) = np.nonzero(following >= 0)
            count[row] = len(places)
            for place in places:
                read = [words[token].strip() for token in tokens[: place + 1]]
                said = [read[i + 1] for i in range(1, place, 2)
                        if group_of[read[i]] == group_of[read[place]]]  # fmt: skip
                right = bool(said) and words[following[place]].strip() == said[-1]
                loss[row] += 0.1 if right else 5.0
                hits[row] += right
        return {"loss": loss, "hits": hits, "count": count}

    return held_out


def test_a_model_that_copies_answers_as_often_as_its_group_was_shown(tmp_path):
    source = data.load(
        "mappings", "test", tokenizer="words", min_count=1, rows="stream", sequence_length=49,
        lines=24, documents=200, cache_dir=str(tmp_path),
    )  # fmt: skip
    made = tokenizer_lib.Tokenizer.from_json(source.tokenizer_json())
    group_of = {word: g for g, words in enumerate(mappings.WORDS) for word in words}
    method = types.SimpleNamespace(end_token=source.spec.vocabulary.sep, context=49)
    model = Model(None, method=method, held_out=copying(made, group_of))
    prober = Prober(source, "mappings")
    options = options_of(shots=(0, 1, 4, 16), same_group=True, score="sum",
                         options={"task": "classify"})  # fmt: skip
    measured = prompting.evaluate_model(model, prober, seed=5, **options)
    about = prompting.asked("mappings", seed=5, **options)
    assert set(measured) == set(prompting.measures(Known(None, source, 0), **options))
    for shots in (0, 1, 4, 16):
        known = []
        for question, some in zip(about.questions.test, about.drawn, strict=True):
            groups = {group_of[one.shown.text] for one in some[:shots]}
            # Without a demonstration of the group all answers have the same score: the first.
            is_known = group_of[question.shown.text] in groups
            known.append(is_known or question.gold[0] == about.questions.choices[0])
        assert measured[str(shots)] == pytest.approx(np.mean(known))
    assert measured["16"] > 0.95 > 0.85 > measured["4"] > measured["1"] > measured["0"]
    chance = prompting.baselines(model, prober, None)[prompting.CHANCE]
    assert chance == dict.fromkeys(["0", "1", "4", "16"], 1 / 8)
    many = options_of(shots=(24,), same_group=True)
    with pytest.raises(UserError, match=r"24 demonstrations and a question .* have up to 50"):
        prompting.evaluate_model(model, Prober(source, "mappings"), **many)
    with pytest.raises(UserError, match="context has 49"):
        prompting.check(Known(None, source, 0), **many)
    assert prompting.check(Known(None, source, 0), **options) is None


def test_the_best_answer_is_by_the_score_that_is_asked_for(gpt, reviews):
    """A model that finds a long word less likely than a short one, much less without a question."""
    source = gpt[2]
    values = dict(data=reviews[0], options=reviews[1], answers={"bad": "incomprehensible"})
    about = prompting.asked("x", seed=0, **options_of(shots=(1,), **values))
    assert about.questions.choices == ("incomprehensible", "good")
    costs = {"incomprehensible": 6.0, "good": 4.0, "unasked": 5.0}

    def held_out(batch):
        count = (np.asarray(batch["next_token"]) >= 0).sum(axis=1)
        alone = np.asarray(batch["segment"]).sum(axis=1) < 20  # behind the calibration only
        is_long = count > lengths.min()
        loss = np.where(is_long, costs["incomprehensible"], costs["good"]) + np.where(
            alone & is_long, costs["unasked"], 0.0
        )
        return {"loss": loss, "hits": 0 * count, "count": count}

    method = types.SimpleNamespace(end_token=0, context=200)
    asker = prompting._Asker(
        Model(None, method=method, held_out=held_out), Prober(source, "x"), about
    )
    pairs = prompting._pairs(about, 1, asker.tokenizer, 0, asker.method.context)
    lengths = np.array([len(pair.continuation) for pair in pairs])
    long, short = sorted(set(lengths.tolist()), reverse=True)
    assert long > short
    assert set(asker._sizes(pairs, "tokens").tolist()) == {long, short}
    assert set(asker._sizes(pairs, "bytes").tolist()) == {len("incomprehensible"), len("good")}
    assert given(asker, "sum") == "good"
    assert given(asker, "bytes") == "incomprehensible"  # 6 / 16 < 4 / 4
    assert given(asker, "tokens") == ("incomprehensible" if 6 / long < 4 / short else "good")
    assert given(asker, "calibrated") == "incomprehensible"  # -6 + 11 > -4 + 4


def given(asker, score):
    """The word that is answered to all questions."""
    right = {}
    for word in asker.about.questions.choices:
        test = [one for one in asker.about.questions.test if one.gold == (word,)]
        some = dataclasses.replace(asker.about.questions, test=test)
        drawn = asker.about.drawn[: len(test)]
        other = prompting._Asker(asker.model, asker.prober, prompting.Asked(
            some, drawn, asker.about.template))  # fmt: skip
        right[word] = other.choose(1, score, "Answer:")
    (word,) = [word for word in right if right[word]]
    return word


def test_written_answers_are_scored_by_exact_match_and_f1(gpt, tmp_path, monkeypatch):
    experiment, w, source = gpt
    for split, count in (("train", 4), ("test", 2)):
        rows = [
            dict(question=f"who {i}?", context=f"Ann {i} it was.", answers={"text": [f"Ann {i}"]})
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def write(method, w, tokenizer, prompts, *, stop, sampling, batch_size):
        asked.extend(prompts)
        assert stop == ("\n",) and sampling.temperature == 0
        return [" the Ann 0!", "Ann 0"]

    monkeypatch.setattr(prompting, "generate_texts", write)
    template = dict(demonstration="{pair} {text} {answer}")
    options = options_of(data=f"squad:{tmp_path}/{{split}}.jsonl", shots=(1,), template=template)
    method = types.SimpleNamespace(end_token=experiment.method.end_token, context=200)
    model = Model(None, method=method, weights=w)
    measured = prompting.evaluate_model(model, Prober(source, "x"), **options)
    assert measured == {"1": 0.5, "f1_1": pytest.approx((1 + 0.5) / 2)}
    assert asked[0].endswith("\nwho 0? Ann 0 it was.")
    assert prompting.baselines(model, None, None) == {}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"data": "digits"}, "prompts need texts with classes"),
        ({"data": "mappings", "options": {"lines": 3}}, "key eval.prompting.options.lines"),
        ({"data": "pydoc", "options": {"task": "classify"}}, "too long for prompts"),
        ({"data": "mappings", "test_split": "tset"}, "has train, test. Did you mean 'test'"),
        ({"data": "mappings", "answers": {"rd": "x"}}, "no class 'rd'"),
        ({"data": "mappings", "answers": {"red": "blue"}}, "one word for two classes"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(values, message):
    with pytest.raises(UserError, match=message):
        prompting.asked("x", seed=0, **options_of(**values))
