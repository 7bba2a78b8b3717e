"""Evaluations of one checkpoint add up in a file; see also tests/end_to_end/test_train.py."""

import copy
import json
import threading

import pytest
from etils import epath

from ssl_jax.core import storage
from ssl_jax.run import evaluation_file


def record(
    names=("knn",), *, value=0.5, beside=(), checkpoint="abc", failed=(), data=(), **options
):
    """What one command measures: `value` for each evaluation and row."""
    figures = {f"{name}/top1": value for name in names if name not in failed}
    content = {
        "step": 30, "data": "digits", "weights": "params", "feature": "h",
        "checkpoint": checkpoint, **figures,
    }  # fmt: skip
    if beside:
        content["baselines"] = {row: dict(figures) for row in beside}
    content["settings"] = {
        name: {"options": dict(options), "data": {"test_split": "test", **dict(data)}}
        for name in names
    }
    if failed:
        content["not_computed"] = dict.fromkeys(failed, "too few")
    return content


def added(*records):
    content, lines = {}, []
    for one in records:
        before = copy.deepcopy((content, one))
        content, lines = evaluation_file.merged(content, one)
        assert before == (before[0], one)  # the arguments stay as they are
    return content, lines


def test_others_are_kept_and_the_same_is_replaced():
    content, lines = added(record(["linear"], value=0.7), record(["knn"]), record(["knn"], value=1))
    assert content["linear/top1"] == 0.7 and content["knn/top1"] == 1
    assert content["settings"].keys() == {"linear", "knn"}
    assert lines == ["the file keeps from earlier: linear"]
    assert added(record())[1] == []


def test_metrics_that_are_not_measured_any_more_do_not_stay():
    first = record() | {"knn/top5": 0.9}
    assert "knn/top5" not in added(first, record())[0]


def test_rows_beside_are_kept_unless_the_options_differ():
    first = record(["knn", "linear"], beside=("raw pixels", "untrained encoder"), k=20)
    content, lines = added(first, record(value=1, beside=("untrained encoder",), k=20))
    assert content["baselines"] == {
        "raw pixels": {"knn/top1": 0.5, "linear/top1": 0.5},
        "untrained encoder": {"linear/top1": 0.5, "knn/top1": 1},
    }
    assert lines == ["the file keeps from earlier: linear, knn of raw pixels"]
    content, lines = added(first, record(value=1, beside=("untrained encoder",), k=5))
    assert content["baselines"]["raw pixels"] == {"linear/top1": 0.5}
    assert content["baselines"]["untrained encoder"] == {"linear/top1": 0.5, "knn/top1": 1}
    assert content["settings"]["knn"]["options"] == {"k": 5}
    assert content["settings"]["linear"]["options"] == {"k": 20}
    assert lines[1] == "left out, because it was measured with other options: knn of raw pixels"
    # A row that has nothing left is gone.
    content, _ = added(record(beside=("raw pixels",), k=20), record(k=5))
    assert "baselines" not in content


def test_other_data_of_what_is_kept_are_named():
    first = record(["linear"], data={"test_split": "test[:9]", "test_examples": 9})
    content, lines = added(first, record(data={"test_examples": 9}))
    assert lines == ["the file keeps from earlier: linear (test_split=test[:9])"]
    assert content["settings"]["linear"]["data"]["test_split"] == "test[:9]"


def test_other_weights_replace_everything():
    for checkpoint in ("", "def"):
        content, lines = added(record(["linear"]), record(checkpoint=checkpoint))
        assert "linear/top1" not in content and len(lines) == 1 and "these weights" in lines[0]
    for key, value in (("weights", "ema"), ("data", "folder:b"), ("feature", "z")):
        content, lines = added(record(["linear"]), record() | {key: value})
        assert "linear/top1" not in content and content[key] == value and len(lines) == 1
    old_file = {"step": 30, "linear/top1": 1.0}
    content, lines = evaluation_file.merged(old_file, record())
    assert "linear/top1" not in content and lines


def test_a_failure_costs_no_earlier_figure():
    content, _ = added(record(["linear"]), record(["linear", "knn"], failed=["linear"]))
    assert content["linear/top1"] == 0.5 and "not_computed" not in content
    content, _ = added(content, record(["mlp", "knn"], failed=["mlp"], k=3))
    assert content["not_computed"] == {"mlp": "too few"} and "mlp" not in content["settings"]
    content, _ = added(content, record(["svm"]))
    assert content["not_computed"] == {"mlp": "too few"} and content["svm/top1"] == 0.5
    assert "not_computed" not in added(content, record(["mlp"]))[0]
    # The encoder's figure of other options goes, although only that of the pixels is replaced.
    second = record(["knn"], failed=["knn"], beside=("raw pixels",), k=7)
    second["baselines"]["raw pixels"] = {"knn/top1": 0.3}
    content, lines = added(record(k=3), second)
    assert "knn/top1" not in content and content["not_computed"] == {"knn": "too few"}
    assert lines == ["left out, because it was measured with other options: knn of this run"]


def test_commands_that_end_at_the_same_time_lose_nothing(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "30_digits.json")
    second = threading.Thread(target=evaluation_file.add, args=(path, record(["knn"])))
    merge = evaluation_file.merged

    def merged(earlier, measured):
        """Gives the second command time to read what the first is about to change."""
        if "linear" in measured["settings"]:
            second.start()
            second.join(timeout=0.5)
            assert second.is_alive()  # it waits
        return merge(earlier, measured)

    monkeypatch.setattr(evaluation_file, "merged", merged)
    evaluation_file.add(path, record(["linear"]))
    second.join()
    assert storage.read_json(path)["settings"].keys() == {"linear", "knn"}


def test_a_damaged_file_is_replaced_with_a_warning(tmp_path, capsys):
    path = epath.Path(tmp_path / "evaluations" / "30_digits.json")
    assert evaluation_file.add(path, record()) == []
    damaged = path.read_text()[:-20]
    path.write_text(damaged)
    assert evaluation_file.add(path, record(["linear"])) == []
    assert path.with_name("30_digits.json.damaged").read_text() == damaged
    assert "warning: reading the earlier evaluations failed" in capsys.readouterr().err
    assert storage.read_json(path) == record(["linear"])
    assert evaluation_file.add(path, record()) == ["the file keeps from earlier: linear"]


@pytest.mark.parametrize("damage", ({"baselines": []}, {"baselines": {"a": 1}}, {"settings": None}))
def test_parts_of_a_wrong_kind_are_damage(damage, tmp_path, capsys):
    path = epath.Path(tmp_path / "30_digits.json")
    path.write_text(json.dumps(record(["linear"]) | damage))
    assert evaluation_file.add(path, record()) == []
    assert "are no objects" in capsys.readouterr().err
    assert storage.read_json(path) == record()


def test_a_checkpoint_without_a_manifest_has_no_fingerprint(tmp_path):
    assert evaluation_file.fingerprint(tmp_path, 3) == ""
