"""How fast teacher and student read and write, timed in turns so that noise hits both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from nexus.evaluation.mode import observing
from nexus.memory import peak_memory_gib
from nexus.results import Estimate, Rates, Speed, Unit

WARM_UP_TOKENS = 4
FEWEST_ROUNDS = 3
"""So many should fit into the time; where they would not, fewer tokens are written a round."""


def speed(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    seconds: float = 20.0,
    seed: int = 0,
) -> Speed:
    """Prefill and greedy decode with a KV cache at batch size 1, each model in its own dtype.

    Each round times both models, the order swapping every round; the first round always completes
    and no further one starts that would overrun `seconds`. Rates are medians over the rounds with
    quartiles; speed-ups are medians of the ratio within each round. The continuation gets shorter
    on a slow machine, and both it and the prompt where a model's context is shorter than the two;
    what was used is in the result.
    """
    models = {"teacher": teacher, "student": student}
    prompt_tokens, new_tokens = _fit(list(models.values()), prompt_tokens, new_tokens)
    prompt = _prompt(list(models.values()), prompt_tokens, seed)
    rounds = _Rounds()
    with observing(teacher, student):
        warm_up = min(WARM_UP_TOKENS, new_tokens)
        trial = [_time_one(model, prompt, warm_up) for model in models.values()]
        new_tokens = _affordable(trial, warm_up, new_tokens, seconds / FEWEST_ROUNDS)
        begin = time.perf_counter()
        order = list(models)
        last = 0.0
        while not rounds.count or time.perf_counter() - begin + last <= seconds:
            start = time.perf_counter()
            for name in order:
                rounds.add(name, *_time_one(models[name], prompt, new_tokens))
            order.reverse()
            last = time.perf_counter() - start
        took = time.perf_counter() - begin
    return Speed(
        teacher=rounds.rates("teacher", prompt_tokens, new_tokens, teacher.dtype),
        student=rounds.rates("student", prompt_tokens, new_tokens, student.dtype),
        speedup=rounds.speedup(),
        device=_device_name(student.device),
        threads=torch.get_num_threads(),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        seconds=round(took, 3),
        peak_memory_gib=round(peak_memory_gib(student.device), 3),
    )


@dataclass
class _Rounds:
    """Seconds by model and phase, one entry a round."""

    prefill: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[str, list[float]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.prefill.get("student", []))

    def add(self, name: str, prefill: float, decode: float) -> None:
        self.prefill.setdefault(name, []).append(prefill)
        self.decode.setdefault(name, []).append(decode)

    def rates(self, name: str, prompt_tokens: int, new_tokens: int, dtype: torch.dtype) -> Rates:
        return Rates(
            prefill=_median(prompt_tokens / np.array(self.prefill[name]), "tokens/s"),
            decode=_median(new_tokens / np.array(self.decode[name]), "tokens/s"),
            dtype=str(dtype).removeprefix("torch."),
        )

    def speedup(self) -> dict[str, Estimate]:
        phases = {"prefill": self.prefill, "decode": self.decode}
        return {
            phase: _median(np.array(times["teacher"]) / np.array(times["student"]), "×")
            for phase, times in phases.items()
        }


def _median(values: np.ndarray, unit: Unit) -> Estimate:
    low, middle, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    several = len(values) > 1
    return Estimate(
        value=middle,
        low=low if several else None,
        high=high if several else None,
        n=len(values),
        unit=unit,
    )


def _time_one(
    model: PreTrainedModel, prompt: Int[Tensor, "1 prompt"], new_tokens: int
) -> tuple[float, float]:
    """Seconds to read the prompt and give the first token; seconds for `new_tokens` more."""
    finish = _barrier(model.device)
    ids = prompt.to(model.device)
    finish()
    start = time.perf_counter()
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    finish()
    read = time.perf_counter()
    for _ in range(new_tokens):
        output = model(
            input_ids=token,
            past_key_values=output.past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
        token = output.logits[:, -1:].argmax(-1)
    finish()
    return read - start, time.perf_counter() - read


def _affordable(trial: list[tuple[float, float]], written: int, wanted: int, seconds: float) -> int:
    """As many new tokens, up to those wanted, as leave a round within `seconds`."""
    read = sum(prefill for prefill, _ in trial)
    each = sum(decode for _, decode in trial) / written
    return max(written, min(wanted, int((seconds - read) / each)))


def _barrier(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _fit(models: list[PreTrainedModel], prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
    contexts = [
        getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in models
    ]
    context = min((length for length in contexts if length), default=prompt_tokens + new_tokens)
    wanted = prompt_tokens + new_tokens
    if wanted <= context:
        return prompt_tokens, new_tokens
    new_tokens = max(1, new_tokens * context // wanted)
    return context - new_tokens, new_tokens


def _prompt(models: list[PreTrainedModel], tokens: int, seed: int) -> Int[Tensor, "1 prompt"]:
    vocabulary = min(model.config.get_text_config().vocab_size for model in models)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (1, tokens), generator=generator)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
