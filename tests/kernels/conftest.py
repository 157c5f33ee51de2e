from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.kernels import chunked_head as kernel
from nexus.kernels import sweeps

sys.path.insert(0, str(Path(__file__).parent))  # what the tests of one kernel share


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is tested as users run it: type checks around it break it into pieces."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith(("nexus.objectives", "nexus.signals", "nexus.kernels.sweeps"))
    ]
    for module in modules:
        classes = [one for one in vars(module).values() if inspect.isclass(one)]
        for holder in (module, *(one for one in classes if one.__module__ == module.__name__)):
            for name, function in list(vars(holder).items()):
                if inspect.isfunction(function):
                    monkeypatch.setattr(holder, name, inspect.unwrap(function))
    sweeps._fused.cache_clear()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Chunks of so many rows at most, of fp32 logits over the vocabulary of `exact`."""
    from exact import V

    def limit(rows: int) -> None:
        monkeypatch.setattr(kernel, "FEWEST_ROWS", 1)
        for name in ("CHUNK_BYTES", "EAGER_CHUNK_BYTES"):
            monkeypatch.setattr(kernel, name, rows * 2 * V * 4)

    return limit
