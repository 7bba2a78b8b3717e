"""Continues texts with a language model: ssl_jax generate --workdir=runs/gpt --prompt="The list"

Prints each prompt with its completion. --prompt and --stop may be given several times. The model
ends a completion itself where a document would end. An encoder-decoder reads the prompt and answers
it; <extra_id_0>, <extra_id_1> and so on in a prompt stand for missing spans, which T5 writes:

    ssl_jax generate --workdir=runs/t5 --prompt="Return the <extra_id_0> of the list."

    --temperature=0       the most likely token at every step; higher values give more variety
    --top_k=40            draw from the 40 most likely tokens
    --top_p=0.9           draw from the most likely tokens that have a probability of 0.9 together
    --stop="."            end at this string, which is not printed
"""

from __future__ import annotations

from absl import flags

from ssl_jax import parallel
from ssl_jax.cli import checkpoint_flags
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import use_compilation_cache
from ssl_jax.pretrained import trained_run


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run.")
    checkpoint_flags.define_flags()
    flags.DEFINE_multi_string("prompt", [], "The beginning of a text.")
    flags.DEFINE_integer("max_new_tokens", 64, "Largest number of tokens of a completion.")
    flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0: the most likely token.")
    flags.DEFINE_integer("top_k", 0, "Draw from so many of the most likely tokens; 0: from all.")
    flags.DEFINE_float("top_p", 1.0, "Draw from the most likely tokens of this probability.")
    flags.DEFINE_multi_string("stop", [], "A string that ends a completion.")
    flags.DEFINE_integer("seed", 0, "Of the random numbers.")


def main() -> int:
    options = flags.FLAGS
    for name in ("workdir", "prompt"):
        if not options[name].value:
            raise UserError(f"--{name} is missing")
    use_compilation_cache(trained_run.read_config(options.workdir).compilation_cache)
    parallel.initialize()
    run = trained_run.load(options.workdir, options.step, weights=options.weights)
    completions = run.generate(
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop=options.stop,
        seed=options.seed,
    )
    is_separate = run.experiment.method.separate_prompt
    for number, (prompt, completion) in enumerate(zip(options.prompt, completions, strict=True)):
        if number:
            print("----")
        print(f"{prompt}\n-> {completion}" if is_separate else prompt + completion)
    return 0
