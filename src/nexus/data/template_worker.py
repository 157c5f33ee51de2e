"""A process that renders chat templates and can do nothing else: `python -m` this module.

Templates come from strangers. transformers renders them in a sandbox, which keeps them from files
and from Python's insides, but not from using up time and memory. So they are rendered here, by that
sandbox, in a process without secrets in its environment, which the system ends when a conversation
takes too long, and which cannot have more than so much memory.

Requests and answers are JSON, each after its length in 8 bytes. See `Request` and `Answer`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import IO, Any, NotRequired, TypedDict, cast

CPU_SECONDS = 2.0
"""For one conversation, unless a request says otherwise."""

MEMORY_BYTES = 512 * 2**20
"""More than the process has when it starts."""

OUTPUT_CHARACTERS = 8 * 2**20
"""Which a rendered conversation may have beside four times its own length."""


class Conversation(TypedDict):
    """What is to be rendered: the whole, and how long some of its beginnings are."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    markers: bool
    """Say where the template's `{% generation %}` blocks are."""
    beginnings: list[tuple[int, bool]]
    """So many of the messages, and whether the generation prompt follows them."""
    unfinished: NotRequired[bool]
    """The generation prompt follows the whole."""


class Request(TypedDict):
    """Conversations for one template."""

    template: str
    variables: dict[str, str]
    conversations: list[Conversation]
    seconds: float
    """Of processor time for one conversation, in all its beginnings."""
    hurried: bool
    """Give answers when there are many: faster, but who is ended takes some with it."""


class Answer(TypedDict, total=False):
    """What became of one conversation; one of `text`, `refused` and `fault` is there."""

    text: str
    blocks: list[tuple[int, int]]
    lengths: list[int]
    """Of the beginnings; -1 for one that the text does not begin with."""
    refused: str
    """The template does not take this conversation."""
    fault: str
    """The template does what no template may."""


def send(pipe: IO[bytes], value: Any, *, flush: bool = True) -> int:
    """Write a value, and return how many bytes it has."""
    content = json.dumps(value).encode()
    pipe.write(len(content).to_bytes(8, "big") + content)
    if flush:
        pipe.flush()
    return len(content)


def receive(pipe: IO[bytes], most: int = 2**40) -> Any:
    """The next value, or None if there is none any more.

    Raises:
        ValueError: if it is longer than `most` bytes.
    """
    size = int.from_bytes(pipe.read(8), "big")
    if size > most:
        raise ValueError(f"{size:,} bytes")
    content = pipe.read(size)
    return json.loads(content) if size and len(content) == size else None


def main() -> None:
    """Answer requests until there are no more."""
    # Rendering needs no tensors, and without them this starts in a fraction of the time.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers.utils.chat_template_utils import render_jinja_template

    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    _limit_memory()
    render = cast(Any, render_jinja_template)
    while request := receive(sys.stdin.buffer):
        for conversation in request["conversations"]:
            _limit_time(request["seconds"])
            answer = _answered(render, request, conversation)
            _limit_time(0)
            send(answers, answer, flush=not request["hurried"])
        answers.flush()


def _answered(render: Callable[..., Any], request: Request, asked: Conversation) -> Answer:
    from jinja2.exceptions import SecurityError, TemplatesNotFound, TemplateSyntaxError

    messages = asked["messages"]
    said = sum(len(text) for one in messages for text in one.values() if isinstance(text, str))
    most = OUTPUT_CHARACTERS + 4 * (said + len(json.dumps(asked["tools"])))

    def write(some: list[dict[str, Any]], *, prompt: bool, markers: bool = False) -> Any:
        texts, blocks = render(
            conversations=[some],
            tools=asked["tools"],
            chat_template=request["template"],
            return_assistant_tokens_mask=markers,
            add_generation_prompt=prompt,
            **request["variables"],
        )
        if len(texts[0]) > most:
            raise _Fault(f"it writes {len(texts[0]):,} characters, over the limit of {most:,}")
        return texts[0], blocks[0] if markers else []

    try:
        unfinished = asked.get("unfinished", False)
        text, blocks = write(messages, prompt=unfinished, markers=asked["markers"])
        beginnings = (write(messages[:n], prompt=prompt)[0] for n, prompt in asked["beginnings"])
        lengths = [len(some) if text.startswith(some) else -1 for some in beginnings]
        return {"text": text, "blocks": blocks, "lengths": lengths}
    except _Fault as fault:
        return {"fault": str(fault)}
    except MemoryError:
        return {"fault": f"it needs more than {MEMORY_BYTES // 2**20} MiB"}
    except RecursionError:
        return {"fault": "it calls itself without end"}
    except (SecurityError, OverflowError) as error:
        return {"fault": f"the sandbox forbids what it does: {error}"}
    except (TemplateSyntaxError, TemplatesNotFound) as error:
        return {"fault": f"it is no valid template: {error}"}
    except Exception as error:  # Whatever a template's expressions can raise.
        if "no loader for this environment" in str(error):
            return {"fault": "it asks for another file"}
        return {"refused": str(error)}


class _Fault(Exception):
    """The template does what no template may."""


def _limit_time(seconds: float) -> None:
    """The system ends the process then. Its own time counts, not how busy the machine is."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


if __name__ == "__main__":
    main()
