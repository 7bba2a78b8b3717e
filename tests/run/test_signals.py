"""Requests to stop, and how the processes of a run agree on them."""

import os
import signal

import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.run import signals


def test_the_first_signal_is_a_request_and_the_second_acts():
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append("acted"))
    try:
        with signals.StopRequest() as stop:
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop and stop.exit_code == 143 and not received
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == ["acted"]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_alone_every_step_answers_at_once():
    request = signals.StopRequest()
    shared = signals.SharedStop(request, start=0, every=10)
    assert not shared.after(1)
    request.signum = signal.SIGTERM
    assert shared.after(2)


class Others:
    """The other process of two: what it was asked, and how many steps it would wait."""

    def __init__(self, monkeypatch):
        self.stop, self.within, self.clock = 0, 10**6, 0.0
        self.asked = []
        monkeypatch.setattr(signals.jax, "process_count", lambda: 2)
        monkeypatch.setattr(signals.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(parallel, "from_all_processes", self.answer)

    def answer(self, numbers):
        self.asked.append(list(numbers))
        return np.array([numbers, [self.stop, self.within]])


@pytest.mark.parametrize("seconds, asks", [(0.01, [1, 10, 20]), (1, [1, 6, 10, 15, 20])])
def test_processes_agree_at_logged_steps_and_about_every_five_seconds(monkeypatch, seconds, asks):
    others = Others(monkeypatch)
    shared = signals.SharedStop(signals.StopRequest(), start=0, every=10)
    steps = []
    for step in range(1, 21):
        others.clock += seconds
        before = len(others.asked)
        assert not shared.after(step)
        steps += [step] * (len(others.asked) - before)
    assert steps == asks


def test_the_slowest_process_decides_and_a_request_to_any_stops_all(monkeypatch):
    others = Others(monkeypatch)
    others.within = 3
    shared = signals.SharedStop(signals.StopRequest(), start=40, every=100)
    others.clock = 0.1
    assert not shared.after(41)
    others.stop = 1
    assert not shared.after(42) and not shared.after(43)  # nobody is asked
    assert shared.after(44)
    assert [own for own, _ in others.asked] == [0, 0]
