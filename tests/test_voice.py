"""Of what many processes have to say alike, one says it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from nexus import voice


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[dist.Store]:
    """What torchrun gives to its processes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5))
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(voice, "ECHO_SECONDS", 0.0)
    yield store


def test_one_of_several_says_it(store: dist.Store) -> None:
    assert [voice.says("a misspelt key") for _ in range(3)] == [True, False, False]
    assert voice.says("and what one of them alone has found")


def test_an_effect_is_said_if_nobody_knows_its_cause(store: dist.Store) -> None:
    assert [voice.says("the other one ended", effect=True) for _ in range(2)] == [True, False]


def test_an_effect_is_not_said_beside_its_cause(store: dist.Store) -> None:
    assert voice.says("a misspelt key")
    assert not voice.says("the other one ended", effect=True)


def test_one_process_says_all_that_it_has_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert voice.says("this") and voice.says("this")


def test_without_a_store_it_is_said_rather_twice_than_never(
    store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("MASTER_PORT", "1")
    assert voice.says("this") and voice.says("this")
