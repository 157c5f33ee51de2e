"""Templates that strangers write, in the process that they are rendered in."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from nexus.data import template_sandbox, template_worker
from nexus.data.template_sandbox import Sandbox, shared
from nexus.data.template_worker import Answer, Conversation
from nexus.errors import NexusError

ONE: Conversation = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": None,
    "markers": False,
    "beginnings": [],
}

FORBIDDEN = {
    "class walk": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "forbids"),
    "globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "forbids"),
    "attribute by format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "forbids"),
    "huge range": ("{% for x in range(1000000000) %}x{% endfor %}", "forbids"),
    "10 MB": ("{{ 'a' * 10000000 }}", "it writes 10,000,000 characters"),
    "2 GB": ("{{ 'a' * 2000000000 }}", "more than 512 MiB"),
    "2 GB by doubling": (
        "{% set ns = namespace(s='a') %}{% for _ in range(31) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}",
        "more than 512 MiB",
    ),
    "2 GB of padding": ("{{ '%9999999999d' % 1 }}", "more than 512 MiB"),
    "macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
    "loop without end": (
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "without end",
    ),
    "deep expression": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "without end"),
    "include": ("{% include '/etc/passwd' %}", "another file"),
    "import": ("{% import 'os' as os %}", "another file"),
    "extends": ("{% extends 'other' %}", "another file"),
    "no template": ("{% for %}", "no valid template"),
}
BUSY = {
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of what was said": "{{ (8 + messages | length) ** (9 ** 9) }}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
}


def _render(sandbox: Sandbox, template: str, count: int = 1) -> list[Answer]:
    return sandbox.render(template, {}, [ONE] * count)


@pytest.mark.parametrize(("template", "reason"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_no_template_may_do(template: str, reason: str) -> None:
    (answer,) = _render(shared(), template)
    assert reason in answer["fault"]


@pytest.fixture(scope="module")
def hasty() -> Iterator[Sandbox]:
    sandbox = Sandbox(seconds=0.25)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("template", BUSY.values(), ids=BUSY.keys())
def test_who_takes_too_long_is_ended_and_the_next_is_served(hasty: Sandbox, template: str) -> None:
    (answer,) = _render(hasty, template)
    assert answer == {"fault": "it takes more than 0.25 seconds"}
    assert _render(hasty, "fine") == [{"text": "fine", "blocks": [], "lengths": []}]


def test_two_seconds_are_what_a_conversation_has() -> None:
    assert template_worker.CPU_SECONDS == 2


@pytest.mark.parametrize("template", ["{{ open('/etc/passwd').read() }}", "{{ 1 // 0 }}"])
def test_what_only_fails_is_refused(template: str) -> None:
    (answer,) = _render(shared(), template)
    assert answer["refused"]


def test_after_a_fault_come_no_more_answers_and_none_is_left_over() -> None:
    template = "{% for x in range(messages[0].content | int) %}{% endfor %}"
    many: list[Any] = [ONE, ONE | {"messages": [{"role": "user", "content": "9" * 9}]}, ONE, ONE]
    answers = shared().render(template, {}, many)
    assert [set(answer) for answer in answers] == [{"text", "blocks", "lengths"}, {"fault"}]
    assert _render(shared(), "{{ messages[0].content }}", 3)[2]["text"] == "hi"


def test_secrets_of_the_environment_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sandbox = Sandbox()
    try:
        _render(sandbox, "")
        process = sandbox._process
        assert process is not None
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            environment = file.read()
        assert b"PYTHONPATH" in environment and b"hf_secret" not in environment
    finally:
        sandbox.close()


def test_beginnings_are_measured_and_told_from_others() -> None:
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    asked: Conversation = {
        "messages": messages,
        "tools": None,
        "markers": False,
        "beginnings": [(1, True), (2, False), (1, False)],
    }
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% elif messages | length == 1 %}!{% endif %}"
    )
    (answer,) = shared().render(template, {}, [asked])
    assert answer["text"] == "user:x;assistant:x;"
    assert answer["lengths"] == [len("user:x;assistant:"), len("user:x;assistant:x;"), -1]


def test_a_process_that_was_killed_is_started_again() -> None:
    sandbox = Sandbox()
    try:
        _render(sandbox, "")
        process = sandbox._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (answer,) = _render(sandbox, "fine")
        assert "ended by signal 9" in answer["fault"]
        assert _render(sandbox, "fine")[0]["text"] == "fine"
    finally:
        sandbox.close()


def test_a_process_that_is_stuck_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(seconds=0.5)
    try:
        _render(sandbox, "")
        process = sandbox._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        monkeypatch.setattr(template_sandbox, "WALL_SECONDS", 0.2)
        (answer,) = _render(sandbox, "fine")
        assert "ended by signal 9" in answer["fault"]
    finally:
        sandbox.close()


def test_a_fork_starts_its_own() -> None:
    before = _render(shared(), "fine")
    child = os.fork()
    if not child:
        os._exit(0 if _render(shared(), "child")[0].get("text") == "child" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _render(shared(), "fine") == before


def test_a_python_that_cannot_start_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox.sys, "executable", shutil.which("false"))
    sandbox = Sandbox()
    with pytest.raises(
        NexusError, match=r"ended by itself \(code 1\).*nexus\.data\.template_worker"
    ):
        _render(sandbox, "")
    sandbox.close()
