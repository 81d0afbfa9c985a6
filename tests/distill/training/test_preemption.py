"""Real signals: the first is noted, a second SIGINT interrupts, and the earlier handlers return."""

import os
import signal
import threading

import numpy as np
import pytest

from distill.cli import interrupts
from distill.training import preemption
from distill.training.preemption import StopRequest


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_asks_to_stop_and_is_logged(number, name, caplog):
    before = signal.getsignal(number)
    with StopRequest(will="stopping after this step") as stop:
        assert not stop.requested(1)
        os.kill(os.getpid(), number)
        assert stop.requested(1)
        assert stop.name == name
    assert f"{name}: stopping after this step" in caplog.text
    assert signal.getsignal(number) is before


def test_a_second_sigint_interrupts():
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.name == "SIGTERM"


def test_two_sigint_of_one_ctrl_c_save_and_a_later_one_interrupts(monkeypatch):
    """A launcher passes on the SIGINT that the terminal has sent, too."""
    assert preemption.APART_S == interrupts.APART_S
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(1)
        monkeypatch.setattr(preemption, "APART_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_of_user_code_is_the_first_or_second_ctrl_c():
    with StopRequest() as stop:
        stop.interrupt()
        assert stop.requested(1)
        assert stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            stop.interrupt()


def test_several_processes_agree_at_some_steps(monkeypatch):
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    exchanged = []

    def gather(flags):
        exchanged.append(flags.tolist())
        return np.stack([flags, other])

    monkeypatch.setattr(preemption.multihost_utils, "process_allgather", gather)
    with StopRequest(sync_period=20) as stop:
        other = [0, 1]
        assert stop.agreed(19, [True]) == [False] and not stop.requested(19) and not exchanged
        assert stop.agreed(20, [False]) == [True] and not stop.requested(20)
        other = [1, 0]
        assert stop.agreed(40, [True]) == [True] and stop.requested(40)
        assert stop.name == "SIGTERM"
        assert exchanged == [[0, 0], [0, 1]]  # one exchange for signals and callbacks


def test_a_second_sigterm_does_not_interrupt():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(2)


def test_handlers_are_restored_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_install_no_handler():
    found = []

    def run():
        with StopRequest() as stop:
            found.append(stop.requested(1))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) is before
