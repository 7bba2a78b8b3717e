"""Writes an encoder for other libraries: ssl_jax export --workdir=DIR --output=OUT --to=timm

    torchvision   a ResNet with torchvision's names
    timm          a ResNet or Vision Transformer with timm's names; timm.create_model loads the
                  folder if timm has the net
    hf            for from_pretrained of the transformers library: BERT or RoBERTa with its heads
                  (of pretraining or of fine-tuning), GPT-1, GPT-2 or T5, with their tokenizers; a
                  Vision Transformer as Dinov2Model, Dinov2WithRegistersModel, IJepaModel,
                  ViTMAEForPreTraining or ViTModel; a ResNet as for timm
    official      all networks of a run of DINO, iBOT, DINOv2, MAE or I-JEPA, OUT/checkpoint.pth as
                  the released code saves it: student and teacher with their heads and prototypes,
                  the centres; decoder or predictor. init_from reads it back
    word2vec      the vectors of words, OUT/vectors.txt and OUT/vectors.bin in the formats of
                  word2vec.c, for gensim's KeyedVectors.load_word2vec_format
    peft          the LoRA adapters of a BERT or RoBERTa, and its base model in OUT/base
    safetensors   any encoder with the names of ssl_jax ("params/...", "buffers/...")

All but official and word2vec write OUT/model.safetensors, the weights in float32, and
OUT/config.json, which describes the architecture and its inputs: RGB images with values in [0, 1],
standardised only if the recipe of the run does so. A text encoder gets the config.json of the
transformers library and the files of its tokenizer. Except for peft, adapters are merged into the
weights.

With timm and hf, an encoder of images gets a model card, OUT/README.md: config, data, the scores of
the run with their spread, the licence (`--license=apache-2.0`) and the lines that load it.

If PyTorch and the library are installed, their model loads the file, and its features are compared
with those of ssl_jax: on images of the run's data set (on noise if it is not available), or on
random texts. A difference above 1e-3 of the features' size fails the command. If the libraries are
not installed or not compatible, or have no such model (a ResNet of another width), the command says
that it did not compare. `--weights` selects the parameters, their moving average (momentum, target
or teacher encoder) or their Polyak average; the default is the weights that the run evaluates.
"""

from __future__ import annotations

from absl import flags

from ssl_jax.cli import checkpoint_flags
from ssl_jax.core.errors import UserError
from ssl_jax.pretrained import export, model_card, trained_run
from ssl_jax.run import results_file


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "A finished or running run.")
    flags.DEFINE_string("output", None, "Folder to write; created if missing.")
    flags.DEFINE_enum("to", None, export.TARGETS, "The library whose names the weights get.")
    checkpoint_flags.define_flags()
    flags.DEFINE_string(
        "license", None, "Identifier of the weights' licence for the model card, e.g. apache-2.0."
    )


def main() -> int:
    options = flags.FLAGS
    for name, example in (("workdir", "runs/x"), ("output", "exported"), ("to", "timm")):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    if options.to == "official" and options.weights:
        raise UserError(
            f"--to=official writes the parameters and their moving average; leave out "
            f"--weights={options.weights}"
        )
    run = trained_run.load(options.workdir, options.step, dtype="float32", weights=options.weights)
    facts = model_card.Facts(options.license, results_file.read(options.workdir))
    for line in export.export(run, options.to, options.output, facts):
        print(line, flush=True)
    return 0
