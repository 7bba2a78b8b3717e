"""Throughput against a hand-made clock; the progress bar as a terminal and a log see it."""

import io

import pytest
from rich.console import Console

from ssl_jax.run.progress import ProgressBar, Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_throughput_over_an_interval():
    clock = Clock()
    meter = Throughput(32, start_step=10, flops_per_step=6e9, peak_flops=1e12, clock=clock)
    for _ in range(5):
        with meter.data_wait():
            clock.now += 0.1
        clock.now += 0.3
    with meter.pause():
        clock.now += 50.0
    measured = meter.measure(15)
    assert measured["train/steps_per_s"] == pytest.approx(2.5)
    assert measured["train/images_per_s"] == pytest.approx(80.0)
    assert measured["train/data_wait"] == pytest.approx(0.25)
    assert measured["train/mfu"] == pytest.approx(2.5 * 6e9 / 1e12)


def test_throughput_starts_anew_each_interval():
    clock = Clock()
    meter = Throughput(1, clock=clock)
    with meter.data_wait():
        clock.now += 10.0
    meter.measure(1)
    clock.now += 2.0
    assert meter.measure(5) == {
        "train/images_per_s": 2.0,
        "train/steps_per_s": 2.0,
        "train/data_wait": 0.0,
    }
    assert meter.measure(5) == {}  # no step since


def test_measuring_inside_a_pause_keeps_both_intervals_right():
    clock = Clock()
    meter = Throughput(1, clock=clock)
    clock.now += 2.0
    with meter.pause():
        clock.now += 50.0
        assert meter.measure(4)["train/steps_per_s"] == pytest.approx(2.0)
        clock.now += 50.0
    clock.now += 5.0
    assert meter.measure(9)["train/steps_per_s"] == pytest.approx(1.0)


def test_data_wait_counts_a_failing_wait():
    clock = Clock()
    meter = Throughput(1, clock=clock)
    with pytest.raises(StopIteration), meter.data_wait():
        clock.now += 1.0
        raise StopIteration
    clock.now += 1.0
    assert meter.measure(1)["train/data_wait"] == 0.5


METRICS = {
    "train/loss": 4.1234567,
    "train/contrastive_accuracy": 0.345,
    "train/images_per_s": 12345.6,
    "train/data_wait": 0.012,
    "train/mfu": 0.417,
}


def lines_of(run, *, terminal=False, width=200):
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=width, color_system=None, legacy_windows=False
    )
    run(console)
    return out.getvalue()


def test_plain_line_off_a_terminal():
    clock = Clock()

    def run(console):
        with ProgressBar(1000, 100, console=console, line_seconds=0, clock=clock) as bar:
            clock.now += 60.0  # compilation and the first steps
            bar.update(110, METRICS)
            clock.now += 10.0
            bar.update(120, METRICS)

    first, second = lines_of(run).splitlines()
    assert first == (
        "step 110/1000  loss 4.123  acc 34.5%  12,346 img/s  data 1%  MFU 41.7%  ETA 1:29:00"
    )
    # 880 steps at one a second: the pace after the first update, without the compilation.
    assert second.endswith("ETA 14:40")


def test_lines_are_spaced_but_the_last_is_there():
    clock = Clock()

    def run(console):
        with ProgressBar(100, console=console, line_seconds=5, clock=clock) as bar:
            for step in range(1, 101):
                clock.now += 0.125
                bar.update(step, {"train/loss": 1.0})
                if step == 50:
                    bar.message("[checkpoint] 50 saved")

    lines = lines_of(run).splitlines()
    shown = [line.split()[1] for line in lines if line.startswith("step")]
    assert shown == ["1/100", "41/100", "81/100", "100/100"]
    assert "[checkpoint] 50 saved" in lines  # not taken for markup


def test_nothing_known_yet():
    text = lines_of(lambda console: ProgressBar(10, console=console).update(0, {}))
    assert text == "step 0/10\n"


def test_bar_on_a_terminal():
    def run(console):
        with ProgressBar(1000, 0, console=console) as bar:
            bar.update(250, METRICS)
            bar.message("checkpoint 250 saved")
            bar.update(500, METRICS)

    text = lines_of(run, terminal=True)
    for part in ("25%", "50%", "loss 4.123", "acc 34.5%", "12,346 img/s", "MFU 41.7%", "ETA"):
        assert part in text
    assert "checkpoint 250 saved" in text


def test_bar_has_no_thread():
    import threading

    before = threading.active_count()
    lines_of(lambda console: ProgressBar(10, console=console).close(), terminal=True)
    out = io.StringIO()
    bar = ProgressBar(10, console=Console(file=out, force_terminal=True))
    assert threading.active_count() == before
    bar.close()
    bar.close()


def test_only_the_primary_process_shows():
    def run(console):
        with ProgressBar(10, console=console, primary=False) as bar:
            bar.update(10, METRICS)
            bar.message("hello")

    assert lines_of(run) == "" and lines_of(run, terminal=True) == ""


def test_diverged_loss_is_shown():
    text = lines_of(
        lambda console: ProgressBar(10, console=console).update(10, {"train/loss": float("nan")})
    )
    assert "loss nan" in text
