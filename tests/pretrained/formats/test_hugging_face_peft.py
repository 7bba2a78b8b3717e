"""The `peft` library loads exported adapters and computes the same logits."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import ssl_jax  # noqa: E402
from ssl_jax import data  # noqa: E402
from ssl_jax.pretrained import export  # noqa: E402
from tests.pretrained.formats.test_hugging_face import workdir_of  # noqa: E402


@pytest.mark.parametrize(
    "targets", [("query", "value"), ("qkv", "fc1", "proj")], ids=lambda names: names[0]
)
def test_adapters_compute_the_same_in_peft(targets, tmp_path):
    workdir_of("supervised-text-lora", tmp_path / "run", adapt__targets=targets)
    run = ssl_jax.load(str(tmp_path / "run"))
    list(export.export(run, "peft", str(tmp_path / "out")))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/base")
    net = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    rows = data.from_config(run.config.data, seed=0).batch(np.arange(4))
    inputs = {
        "input_ids": rows["tokens"], "attention_mask": rows["segment"] > 0,
        "token_type_ids": rows["type"],
    }  # fmt: skip
    with torch.no_grad():
        tensors = {name: torch.from_numpy(x.astype(np.int64)) for name, x in inputs.items()}
        theirs = net(**tensors).logits.numpy()
    ours = np.asarray(run.encode(rows)["logits"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with net.disable_adapter(), torch.no_grad():
        assert np.abs(net(**tensors).logits.numpy() - theirs).max() > 3e-4
