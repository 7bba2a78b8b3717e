"""Names a net where a config takes that of a pretrained run, of which there is none here."""

TINY = {"gpt": "gpt2_tiny", "t5": "t5_tiny"}  # by the first part of a variant of finetune


def name_net(config, variant):
    """Sets `model.name` of a variant's config in place, if it is that of a pretrained run."""
    if config.model.get("name") != "init_from":
        return
    if "ops" in config.views:  # images
        config.model.name = "convnet"
    else:
        config.model.name = TINY.get(variant.partition("_")[0], "bert_tiny")
