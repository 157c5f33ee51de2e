from __future__ import annotations

import inspect
import sys

import pytest

from nexus.kernels import sweeps


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
