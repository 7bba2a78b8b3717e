"""Answers to prompts with demonstrations, without any training (Brown et al. 2020, Sec. 2.4).

A question of the test split stands behind K demonstrations: examples of the train split with their
answers, drawn at random for each question. K = 0, 1 and more are the zero-, one- and few-shot
accuracy. A template says how examples become text (`ssl_jax.evals.prompts.template`):

    Translate English to French:        instruction
    sea otter => loutre de mer          demonstration: "{text} => {answer}"
    cheese =>                           the question

Where the answers are classes, the one with the best score is the model's answer:

    sum          log p(answer | prompt)
    tokens       the same per token of the answer, as in the paper
    bytes        the same per byte of the answer
    calibrated   log p(answer | prompt) - log p(answer | calibration), the paper's rule for ARC,
                 OpenBookQA and RACE; `calibration` is a text such as "Answer:"

Where they are texts (task=span), the model writes one up to the next separator, and SQuAD's exact
match and F1 count. The paper searches with beams there; here the most likely token is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ssl_jax import parallel
from ssl_jax.config.fields import each, not_empty, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.prompts import questions as questions_lib
from ssl_jax.evals.prompts import scoring
from ssl_jax.evals.prompts.questions import Question, Questions
from ssl_jax.evals.prompts.template import Template
from ssl_jax.methods.base.generation import generate_texts
from ssl_jax.methods.base.generative import Generative
from ssl_jax.models.decoding import Sampling
from ssl_jax.tasks import answers as answers_lib

NEEDS = ()
FITS = False
METRICS = {
    "{shots:d}": Metric(
        "{shots}-shot",
        "right answers to prompts",
        series="demonstrations",
        headline="largest",
        sentence="right answers of {model} to prompts with {number}",
    ),
    "f1_{shots:d}": Metric("{shots}-shot F1", "F1 of the words of answers to prompts"),
}
CHANCE = "chance"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_TEMPLATE = Template()
_WRITTEN = 32  # tokens of a written answer at most


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method continues texts; an encoder-decoder answers them instead."""
    is_decoder = isinstance(method, Generative) and not method.separate_prompt
    return is_decoder and spec.vocabulary is not None


class Asked(NamedTuple):
    """What the options say is asked.

    Attributes:
      questions: of the data set.
      drawn: for each of `questions.test`, the most demonstrations that any prompt has.
      template: makes texts of them.
    """

    questions: Questions
    drawn: Sequence[Sequence[Question]]
    template: Template

    def prompts(self, shots: int) -> list[str]:
        """The prompt of each question."""
        return [
            self.template.render([one.shown for one in some[:shots]], question.shown)
            for question, some in zip(self.questions.test, self.drawn, strict=True)
        ]

    def answers(self) -> list[list[str]]:
        """The continuations that are scored behind the prompt of each question."""
        blanks = [self.template.ask(question.shown)[1] for question in self.questions.test]
        return [[blank + choice for choice in self.questions.choices] for blank in blanks]


def asked(
    name: str,
    *,
    seed: int,
    data: str | None,
    options: Mapping[str, Any],
    train_split: str,
    test_split: str,
    shots: Sequence[int],
    same_group: bool,
    template: Template,
    answers: Mapping[str, str],
    max_questions: int,
    **others: Any,
) -> Asked:
    """Reads the questions; for the options see `evaluate_model`.

    Args:
      name: of the run's data set.

    Raises:
      UserError: as `evaluate_model`.
    """
    del others
    questions = questions_lib.read(
        data or name,
        options,
        train_split=train_split,
        test_split=test_split,
        answers=answers,
        limit=max_questions,
    )
    drawn = questions.demonstrations(max(shots), seed, of_group=same_group)
    return Asked(questions, drawn, template)


def check(known: Known, **options: Any) -> None:
    """Reads the questions and their prompts, before anything is computed.

    Raises:
      UserError: as `evaluate_model`.
    """
    source = known.test
    about = asked(source.name.rpartition("[")[0], seed=0, **options)
    tokenizer = Tokenizer.from_json(source.tokenizer_json())
    context = source.spec.arrays["tokens"].shape[0]
    for shots in options["shots"]:
        _pairs(about, shots, tokenizer, source.spec.vocabulary.sep, context)


def measures(known: Known, *, shots: Sequence[int], **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    about = asked(known.test.name.rpartition("[")[0], seed=0, shots=shots, **options)
    free = () if about.questions.choices else tuple(f"f1_{count}" for count in shots)
    return (*map(str, shots), *free)


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    seed: int = 0,
    data: Annotated[
        str | None,
        "Data set of labelled examples: texts with classes, or questions with answers; None: that "
        "of the run.",
    ] = None,
    options: Annotated[Mapping[str, Any], "Options of that data set, such as text_key."] = _NOTHING,
    train_split: Annotated[str, "Split that demonstrations are drawn from."] = "train",
    test_split: Annotated[str, "Split that is asked."] = "test",
    shots: Annotated[
        tuple[int, ...], each(not_negative), not_empty, "Numbers of demonstrations."
    ] = (0, 1, 4),
    same_group: Annotated[
        bool, "Whether demonstrations are of the question's own group of examples."
    ] = False,
    template: Annotated[Template, "How examples become text."] = _TEMPLATE,
    answers: Annotated[
        Mapping[str, str], "Class -> the word that stands for it; others have their names."
    ] = _NOTHING,
    score: Annotated[
        Literal["sum", "tokens", "bytes", "calibrated"], "The answer with the most of it is given."
    ] = "tokens",
    calibration: Annotated[
        str, "Of score=calibrated: the text that the answers are scored behind without a question."
    ] = "Answer:",
    max_questions: Annotated[int, positive, "Questions at most, evenly spaced."] = 256,
) -> dict[str, float]:
    """The share of right answers for each number of demonstrations.

    Args:
      model: a language model.
      prober: gives the tokenizer of the run, the devices and the batch size.
      seed: of the demonstrations.
      others: see above.

    Returns:
      "0", "1" ...: accuracy, or exact match, in [0, 1]; for written answers also "f1_0" and so on.

    Raises:
      UserError: there is no such data set, split or class; the data have no labels for prompts; a
        prompt with its answer does not fit the context, or train has too few demonstrations.
    """
    about = asked(
        prober.dataset, seed=seed, data=data, options=options, train_split=train_split,
        test_split=test_split, shots=shots, same_group=same_group, template=template,
        answers=answers, max_questions=max_questions,
    )  # fmt: skip
    model.kept[__name__] = about.questions.choices, shots
    asker = _Asker(model, prober, about)
    metrics = {}
    for count in shots:
        if about.questions.choices:
            metrics[str(count)] = asker.choose(count, score, calibration)
        else:
            metrics[str(count)], metrics[f"f1_{count}"] = asker.write(count)
    return metrics


def baselines(model: Model, prober: Any, source: Any) -> dict[str, dict[str, float]]:
    """The accuracy of guessing where answers are classes. Call it after `evaluate_model`."""
    del prober, source
    choices, shots = model.kept[__name__]
    return {CHANCE: {str(count): 1 / len(choices) for count in shots}} if choices else {}


class _Asker:
    """Asks a model the questions.

    Args:
      model: a language model.
      prober: see `evaluate_model`.
      about: the questions.
    """

    def __init__(self, model: Model, prober: Any, about: Asked):
        self.method, self.about, self.model, self.prober = model.method, about, model, prober
        self.tokenizer = Tokenizer.from_json(prober.test.tokenizer_json())
        self.pad = prober.test.spec.vocabulary.pad
        self.mesh = prober.mesh
        shards = parallel.batch_shards(self.mesh)
        self.batch_size = -(-prober.config.eval.batch_size // shards) * shards

    def scores(self, pairs: Sequence[scoring.Pair]) -> scoring.Scores:
        """Scores pairs on the devices."""
        rows = parallel.local_rows(self.mesh, self.batch_size)

        def place(batch: Mapping[str, np.ndarray]) -> Any:
            local = {name: array[rows] for name, array in batch.items()}
            return parallel.to_global(local, self.mesh, rows, self.batch_size)

        return scoring.log_likelihoods(
            self.model.held_out, pairs, context=self.method.context, pad=self.pad,
            batch_size=self.batch_size, place=place, gather=parallel.gather,
        )  # fmt: skip

    def choose(self, shots: int, score: str, calibration: str) -> float:
        """The accuracy of the answer with the best score."""
        end, context = self.method.end_token, self.method.context
        pairs = _pairs(self.about, shots, self.tokenizer, end, context)
        log_p = self.scores(pairs).log_p
        if score == "calibrated":
            flat = [(calibration, answer) for row in self.about.answers() for answer in row]
            log_p = log_p - self.scores(scoring.tokenized(self.tokenizer, flat, end)).log_p
        elif score != "sum":
            log_p = log_p / self._sizes(pairs, score)
        choices = self.about.questions.choices
        given = np.argmax(log_p.reshape(-1, len(choices)), axis=1)
        gold = [choices.index(question.gold[0]) for question in self.about.questions.test]
        return float(np.mean(given == np.array(gold)))

    def _sizes(self, pairs: Sequence[scoring.Pair], score: str) -> np.ndarray:
        if score == "tokens":
            return np.array([len(pair.continuation) for pair in pairs])
        flat = [answer.strip() for row in self.about.answers() for answer in row]
        return np.array([len(answer.encode()) for answer in flat])

    def write(self, shots: int) -> tuple[float, float]:
        """Exact match and F1 of the most likely text up to the next separator."""
        _pairs(self.about, shots, self.tokenizer, self.method.end_token, self.method.context)
        written = generate_texts(
            self.method,
            self.model.weights,
            self.tokenizer,
            self.about.prompts(shots),
            sampling=Sampling(max_new_tokens=_WRITTEN, temperature=0.0),
            stop=(self.about.template.separator,),
            batch_size=self.batch_size,
        )
        gold = [question.gold for question in self.about.questions.test]
        measured = [
            (answers_lib.exact_match(text, right), answers_lib.f1(text, right))
            for text, right in zip(written, gold, strict=True)
        ]
        exact, f1 = np.mean(measured, axis=0)
        return float(exact), float(f1)


def _pairs(
    about: Asked, shots: int, tokenizer: Tokenizer, end_token: int, context: int
) -> list[scoring.Pair]:
    """Each prompt with each answer; where answers are written, the prompts alone.

    Raises:
      UserError: one does not fit the context.
    """
    prompts = about.prompts(shots)
    if about.questions.choices:
        rows = zip(prompts, about.answers(), strict=True)
        texts = [(prompt, answer) for prompt, answers in rows for answer in answers]
    else:
        texts = [(prompt, "") for prompt in prompts]
    written = 0 if about.questions.choices else _WRITTEN + 1
    pairs = scoring.tokenized(tokenizer, texts, end_token)
    longest = max(pair.inputs for pair in pairs) + written
    if longest > context:
        raise UserError(
            f"eval.prompting.shots: {shots} demonstrations and a question of "
            f"{about.questions.name} have up to {longest:,} tokens with the answer, and the "
            f"model's context has {context:,}; show fewer"
        )
    return pairs
