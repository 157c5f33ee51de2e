"""Signals wait for the end of a step while training, and act at once elsewhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nexus.errors import Interrupted
from nexus.stopping import Stopping


@pytest.fixture
def listening() -> Iterator[Stopping]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    stopping = Stopping()
    stopping.listen(lambda text: None)
    yield stopping
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nobody_asks_unless_a_signal_comes() -> None:
    assert not Stopping()()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_while_training_a_signal_waits_for_the_end(
    listening: Stopping, number: signal.Signals
) -> None:
    with pytest.raises(Interrupted, match="training was done"), listening.gently():
        signal.raise_signal(number)
        assert listening()
        reached = True
    assert reached


def test_elsewhere_a_signal_acts_at_once(listening: Stopping) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
    assert listening()


def test_a_second_signal_ends_the_process_resumably() -> None:
    program = (
        "import signal\n"
        "from nexus.stopping import Stopping\n"
        "s = Stopping(); s.listen(lambda text: None)\n"
        "with s.gently():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == Interrupted.exit_code == 75
    assert "still here" not in done.stdout
