"""How fast teacher and student read and write, timed in turns so that noise hits both alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from nexus.evaluation.mode import observing, thawed
from nexus.memory import GIB, available_bytes, peak_memory_gib
from nexus.results import Estimate, Rates, Speed, SpeedAt, Unit
from nexus.window import context_limit

BATCH_SIZES = (1, 8, 32)
WARM_UP_TOKENS = 4
TRIAL_PROMPT = 16
"""Of the batch sizes after the first: what is tried before they are timed, and the least."""
FEWEST_ROUNDS = 3
"""So many should fit into the time; where they would not, fewer tokens are written a round."""

Timer = Callable[[], tuple[float, float]]
"""Seconds to read, and to write."""

_NO_MEMORY = re.compile("allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


def speed(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    seconds: float = 20.0,
    seed: int = 0,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Speed:
    """Prefill and greedy decode with a KV cache, each model in its own dtype.

    Each round times both models, the order swapping every round. The first batch size completes a
    round whatever it takes; no other round starts that would overrun the batch size's share of
    `seconds`. Rates count the tokens of the whole batch and are medians over the rounds with
    quartiles; speed-ups are medians of the ratio within each round. Prompt and continuation get
    shorter on a slow machine, and where a model's context is shorter than the two; what was used is
    in the result. A later batch size is left out, and named, if it does not fit into its share even
    once, or into memory.
    """
    models = {"teacher": teacher, "student": student}
    prompt_tokens, new_tokens = fitting(list(models.values()), prompt_tokens, new_tokens)
    first, *others = batch_sizes
    with observing(teacher, student), thawed(teacher, student):
        prompt = random_prompt(list(models.values()), first, prompt_tokens, seed)
        warm_up = min(WARM_UP_TOKENS, new_tokens)
        trial = [time_one(model, prompt, warm_up) for model in models.values()]
        share = seconds / len(batch_sizes)
        written = _affordable(trial, warm_up, new_tokens, share / FEWEST_ROUNDS)
        main = last = _time_rounds(models, prompt, written, share)
        took, batches, left_out = main.took, list[SpeedAt](), list[str]()
        for number, batch in enumerate(others):
            share = (seconds - took) / (len(others) - number)
            begin = time.perf_counter()
            prompt = random_prompt(list(models.values()), batch, prompt_tokens, seed)
            timed = _time_batch(models, prompt, new_tokens, share, last)
            took += time.perf_counter() - begin
            if isinstance(timed, str):
                left_out.append(f"batch size {batch}: {timed}")
            else:
                batches.append(timed.at(models))
                last = timed
    return Speed(
        teacher=main.rates("teacher", teacher.dtype),
        student=main.rates("student", student.dtype),
        speedup=main.speedup(),
        device=_device_name(student.device),
        threads=torch.get_num_threads(),
        batch=first,
        prompt_tokens=main.prompt_tokens,
        new_tokens=main.new_tokens,
        seconds=round(took, 3),
        peak_memory_gib=round(peak_memory_gib(student.device), 3),
        batches=tuple(batches),
        left_out=tuple(left_out),
    )


def _time_batch(
    models: dict[str, PreTrainedModel],
    prompt: Int[Tensor, "batch prompt"],
    new_tokens: int,
    seconds: float,
    smaller: _Rounds,
) -> _Rounds | str:
    """Rounds of one of the later batch sizes, or why there are none.

    Args:
        models: the models.
        prompt: as long as it may be.
        new_tokens: as many as may be written.
        seconds: what the batch size may take, its trial included.
        smaller: the rounds of a smaller batch, which were no slower.
    """
    begin = time.perf_counter()
    tried, written = min(TRIAL_PROMPT, prompt.shape[1]), min(WARM_UP_TOKENS, new_tokens)
    if (least := smaller.seconds_of(tried, written)) > seconds:
        return f"a round takes {least:.1f} s or more, and there were {max(0.0, seconds):.1f} s"
    if (needed := _cache_bytes(models, prompt, new_tokens)) > (free := _free_bytes(models)):
        return f"its cache needs {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
    try:
        trial = [time_one(model, prompt[:, :tried], written) for model in models.values()]
        read, wrote = (sum(phase) for phase in zip(*trial, strict=True))
        left = seconds - (time.perf_counter() - begin)
        if read + wrote > left:
            return f"a round takes {read + wrote:.1f} s, and there were {max(0.0, left):.1f} s"
        whole = read / tried * prompt.shape[1] + wrote / written * new_tokens
        scale = min(1.0, left / FEWEST_ROUNDS / whole) if whole else 1.0
        length = max(tried, int(scale * prompt.shape[1]))
        continued = max(written, int(scale * new_tokens))
        return _time_rounds(models, prompt[:, :length], continued, left)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return "it does not fit into memory"


@dataclass
class _Rounds:
    """Seconds by model and phase at one batch size, one entry a round."""

    batch: int
    prompt_tokens: int
    new_tokens: int
    prefill: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[str, list[float]] = field(default_factory=dict)
    took: float = 0.0

    def add(self, name: str, prefill: float, decode: float) -> None:
        self.prefill.setdefault(name, []).append(prefill)
        self.decode.setdefault(name, []).append(decode)

    def seconds_of(self, prompt_tokens: int, new_tokens: int) -> float:
        """What both models would take together, by their fastest rounds."""
        reading = sum(min(times) for times in self.prefill.values()) / self.prompt_tokens
        writing = sum(min(times) for times in self.decode.values()) / self.new_tokens
        return reading * prompt_tokens + writing * new_tokens

    def rates(self, name: str, dtype: torch.dtype) -> Rates:
        prefill, decode = np.array(self.prefill[name]), np.array(self.decode[name])
        return Rates(
            prefill=median(self.batch * self.prompt_tokens / prefill, "tokens/s"),
            decode=median(self.batch * self.new_tokens / decode, "tokens/s"),
            first_token=median(prefill, "s"),
            dtype=str(dtype).removeprefix("torch."),
        )

    def speedup(self) -> dict[str, Estimate]:
        phases = {"prefill": self.prefill, "decode": self.decode}
        return {
            phase: median(np.array(times["teacher"]) / np.array(times["student"]), "×")
            for phase, times in phases.items()
        }

    def at(self, models: dict[str, PreTrainedModel]) -> SpeedAt:
        return SpeedAt(
            batch=self.batch,
            teacher=self.rates("teacher", models["teacher"].dtype),
            student=self.rates("student", models["student"].dtype),
            speedup=self.speedup(),
            prompt_tokens=self.prompt_tokens,
            new_tokens=self.new_tokens,
        )


def _time_rounds(
    models: dict[str, PreTrainedModel],
    prompt: Int[Tensor, "batch prompt"],
    new_tokens: int,
    seconds: float,
) -> _Rounds:
    """At least one round, and as many more as fit into the time."""
    rounds = _Rounds(prompt.shape[0], prompt.shape[1], new_tokens)
    begin = time.perf_counter()
    timers = {name: partial(time_one, model, prompt, new_tokens) for name, model in models.items()}
    for name, times in in_turns(timers, seconds).items():
        for prefill, decode in times:
            rounds.add(name, prefill, decode)
    rounds.took = time.perf_counter() - begin
    return rounds


def in_turns(timers: Mapping[str, Timer], seconds: float) -> dict[str, list[tuple[float, float]]]:
    """What each timer gave, a round at a time, the order swapping every round.

    One round whatever it takes; no other starts that would overrun the time.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in timers}
    begin, last, order = time.perf_counter(), 0.0, list(timers)
    while not all(found.values()) or time.perf_counter() - begin + last <= seconds:
        start = time.perf_counter()
        for name in order:
            found[name].append(timers[name]())
        order.reverse()
        last = time.perf_counter() - start
    return found


def median(values: np.ndarray, unit: Unit) -> Estimate:
    """With its quartiles, where there are several."""
    low, middle, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    several = len(values) > 1
    return Estimate(
        value=middle,
        low=low if several else None,
        high=high if several else None,
        n=len(values),
        unit=unit,
    )


def time_one(
    model: PreTrainedModel, prompt: Int[Tensor, "batch prompt"], new_tokens: int
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


def fitting(models: list[PreTrainedModel], prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
    """Lengths of prompt and continuation, shorter in proportion where a context is shorter."""
    wanted = prompt_tokens + new_tokens
    context = context_limit(*(model.config for model in models)) or wanted
    if wanted <= context:
        return prompt_tokens, new_tokens
    new_tokens = max(1, new_tokens * context // wanted)
    return context - new_tokens, new_tokens


def random_prompt(
    models: list[PreTrainedModel], batch: int, tokens: int, seed: int
) -> Int[Tensor, "batch prompt"]:
    """Tokens that all of them know."""
    vocabulary = min(model.config.get_text_config().vocab_size for model in models)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch, tokens), generator=generator)


def _cache_bytes(
    models: dict[str, PreTrainedModel], prompt: Int[Tensor, "batch prompt"], new_tokens: int
) -> int:
    """What keys and values of the larger model take, twice, since a longer cache is a copy."""
    batch, length = prompt.shape
    needed = 0
    for model in models.values():
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        kept = getattr(config, "num_key_value_heads", None) or heads
        by_token = 2 * config.num_hidden_layers * kept * width * model.dtype.itemsize
        needed = max(needed, 2 * by_token * batch * (length + new_tokens))
    return needed


def _free_bytes(models: dict[str, PreTrainedModel]) -> int:
    return max(0, min(available_bytes(model.device) for model in models.values()))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
