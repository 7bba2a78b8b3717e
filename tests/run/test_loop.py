"""What a run settles before its first step."""

import functools
import json

import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.evals import knn
from ssl_jax.modalities.image import Image
from ssl_jax.run import metrics, report_contents
from ssl_jax.run.loop import Run
from tests.methods import table


def begin(workdir, row="simclr", **overrides):
    return Run(table.ROWS[row].load(**overrides), str(workdir))


def test_splits_that_are_to_be_scored_are_looked_for_at_once(tmp_path):
    for key, value in (("test_split", "tset"), ("validation_split", "train[:20%]+dev")):
        with pytest.raises(UserError) as told:
            begin(tmp_path, **{f"eval__{key}": value})
        assert f"eval.{key} is '{value}', but digits has no split" in str(told.value)
        assert "only train, test." in str(told.value)
    begin(tmp_path, eval__test_split="tset", eval__names=(), eval__final_names=())  # not scored
    begin(tmp_path, eval__validation_split="train[90%:]")


def test_ones_own_text_needs_a_part_to_be_scored_on(tmp_path):
    with pytest.raises(UserError, match=r"LICENSE has no split 'test', only train\.") as told:
        begin(tmp_path, "roberta", eval__test_split="test")
    assert "data.split='train[:90%]' eval.test_split='train[90%:]'" in str(told.value)
    begin(tmp_path, "roberta", data__split="train[:90%]", eval__test_split="train[90%:]")


def test_a_try_that_ended_before_its_first_step_is_replaced(tmp_path):
    with pytest.raises(UserError, match="init_from=nonsense: there is no such run, file or folder"):
        begin(tmp_path, init_from="nonsense")
    assert not (tmp_path / "config.json").exists()
    begin(tmp_path, init_from=__file__)  # its weights would be read at the first step
    begin(tmp_path, init_from=None, seed=3)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
    # Not so once there is something to lose.
    with metrics.MetricWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"train/loss": 1.0})
    with pytest.raises(UserError, match="holds a run of another config .seed: 3 -> 4"):
        begin(tmp_path, seed=4)


def test_another_programs_config_is_left_alone(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="config.json is not the config of a run"):
        begin(tmp_path)
    assert path.read_text() == '{"model_type": "bert"}'


def test_classes_that_are_too_small_are_found_at_once(tmp_path):
    small = {"eval__train_split": "train[:20]", "eval__names": ("few_shot",)}
    with pytest.raises(UserError, match="few-shot: class . has only . labelled train examples"):
        begin(tmp_path, **small, eval__few_shot__shots=(16,))
    begin(tmp_path, **small, eval__few_shot__shots=(1, 16))
    with pytest.raises(UserError, match="the mlp probe needs 10 train examples and 2 of each"):
        begin(tmp_path, eval__train_split="train[:9]", eval__names=("mlp",))


def test_the_best_metric_has_to_be_measured(tmp_path):
    for key, message in (
        ("eval/knn/top2", "best_metric is 'eval/knn/top2'.*measure eval/knn/top1"),
        ("eval/kn/top1", "Did you mean 'eval/knn/top1'"),
        ("train/loss", "best_metric is 'train/loss'"),
    ):
        with pytest.raises(UserError, match=message):
            begin(tmp_path, checkpoint__best_metric=key)
    with pytest.raises(UserError, match="a higher eval/knn/top1 is better; set .*=max"):
        begin(tmp_path, checkpoint__best_mode="min")
    begin(tmp_path, checkpoint__best_metric="eval/linear/top1")  # it is not run, nor needed


@pytest.mark.slow
def test_a_restart_writes_the_report_page_that_a_finished_run_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "report", lambda *_: {})
    monkeypatch.setattr(report_contents, "shown_items", lambda *_: {})
    settings = dict(steps=2, batch_size=32, eval__names=(), eval__final_names=())
    assert begin(tmp_path, **settings).execute() == 0
    page, results = tmp_path / "report.html", tmp_path / "results.json"
    assert page.exists()
    scores = json.loads(results.read_text()) | {"results": {"SimCLR": {"knn/top1": 0.625}}}
    results.write_text(json.dumps(scores))
    capsys.readouterr()
    assert begin(tmp_path, **settings).execute() == 0
    assert "the run is finished (step 2): nothing to do" in capsys.readouterr().out
    page.unlink()
    assert begin(tmp_path, **settings).execute() == 0
    assert "the run is finished (step 2): its report page is missing" in capsys.readouterr().out
    assert "<td>62.5</td>" in page.read_text()
    assert json.loads(results.read_text()) == scores
    # Results of a state that is no longer there: one line, and no page.
    page.unlink()
    results.write_text(json.dumps(scores | {"best_step": 1}))
    assert begin(tmp_path, **settings).execute() == 0
    assert "warning: the report page failed: " in capsys.readouterr().err
    assert not page.exists()


def test_damaged_files_of_a_workdir_are_one_line(tmp_path):
    path = tmp_path / "config.json"
    whole = begin(tmp_path) and path.read_text()
    for content in ("", whole[:100], "[]", '{"format": 1, "data": 5}', "\x00"):
        path.write_text(content)
        with pytest.raises(UserError) as told:
            begin(tmp_path)
        assert "\n" not in str(told.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="config.json cannot be read: .*Is a directory"):
        begin(tmp_path)
    path.rmdir()
    (tmp_path / "metrics.jsonl").mkdir()
    begin(tmp_path)
    with pytest.raises(UserError, match="metrics.jsonl cannot be read: .*Is a directory"):
        begin(tmp_path, seed=3)


@pytest.mark.slow
def test_an_evaluation_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    """In the middle or at the end. A restart has nothing to do and says what is missing."""
    settings = dict(
        steps=4, batch_size=32, eval__every_epochs=2 / 44, eval__names=("knn", "collapse"),
        eval__final_names=("knn", "collapse"), eval__baselines=(), log__report=False,
        data__split="train[:90%]", eval__validation_split="train[90%:]",
        eval__final_checkpoint="best",
    )  # fmt: skip

    @functools.wraps(knn.evaluate)  # its options are read from it
    def failing(*_, **__):
        raise UserError("no votes")

    monkeypatch.setattr(knn, "evaluate", failing)
    assert begin(tmp_path, **settings).execute() == 0
    said = capsys.readouterr()
    assert "warning: evaluation 'knn' at step 2 failed: no votes" in said.err
    assert "the results are those of the last step: eval/knn/top1 was not measured" in said.out
    steps = [row["step"] for row in metrics.read_metrics(tmp_path) if "eval/collapse/std_h" in row]
    assert steps == [2, 4]
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["not_computed"] == {"SimCLR": {"knn": "no votes"}}
    assert "collapse/std_h" in record["results"]["SimCLR"]
    assert begin(tmp_path, **settings).execute() == 0
    said = capsys.readouterr()
    assert "nothing to do\nnot computed: knn of SimCLR (no votes)\n" in said.out
    assert "not in its results" not in said.out
    assert begin(tmp_path, **{**settings, "eval__final_names": ("knn", "linear")}).execute() == 0
    added = f"not in its results: linear; ssl_jax evaluate --workdir={tmp_path} --evals=linear\n"
    assert added in capsys.readouterr().out
