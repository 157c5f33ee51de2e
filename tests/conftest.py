"""What every test runs under: no network, the same examples each time, shapes that are checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis import settings

settings.register_profile("nexus", derandomize=True, deadline=None, database=None)
settings.load_profile("nexus")


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, except for the few annotations it cannot check: `Self`, and plain protocols."""
    try:
        return beartype(function)
    except BeartypeDecorHintException:
        return function


class OffWhileCompiling(type(jaxtyping.config)):
    """torch.compile cannot trace a shape check; the same lines are checked eagerly anyway."""

    @property
    def jaxtyping_disable(self) -> bool:
        return torch.compiler.is_compiling()


jaxtyping.config.__class__ = OffWhileCompiling
jaxtyping.install_import_hook("nexus", f"{__name__}.check_types")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dashboards and caches are written beside the test, never into the developer's home."""
    monkeypatch.setenv("TRACKIO_DIR", f"{tmp_path}/trackio")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are not checked: for what users pass against the annotations."""
    monkeypatch.setattr(type(jaxtyping.config), "jaxtyping_disable", property(lambda _: True))


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


Nexus = Callable[..., tuple[int, str, str]]


@pytest.fixture
def nexus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Nexus]:
    """The command in this process: its exit code, and what it prints on both channels."""
    from nexus import cli
    from nexus.launch import MARK
    from nexus.stopping import PROCESS

    monkeypatch.setenv(MARK, "as the system has them")  # not to start the tests again

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nexus", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    yield call
    PROCESS.deafen()
