"""Does distillation do what theory says? A language whose true probabilities are known.

A bigram language of 128 tokens is the teacher, so "how far is the student from the truth" can be
computed and not merely estimated. The student, a softmax of rank 16, cannot be right everywhere.
Each arm trains it in another way on the same tokens; the table says how far from the truth it ends.

    python benchmarks/oracle.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import described
from machine import facts as machine_facts
from results import RESULTS, publish, table
from torch import Tensor

from nexus.batch import Targets
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Scores, Support

VOCABULARY, RANK, TOKENS_PER_STEP, STEPS, SEEDS = 128, 16, 64, 3000, 3
KEPT, DRAWS = 12, 20
LEARNING_RATE = 0.02

Teacher = Callable[[Tensor], Scores | Support]
"""From the true log-probabilities of some positions to what the student is told of them."""


@dataclass(frozen=True)
class Arm:
    """A way to train: alpha weights the task, the rest goes to the output objective."""

    name: str
    alpha: float
    output: Output = Output()
    teacher: Teacher = Scores
    conditional: bool = False
    """Whether the student too is renormalised on the ids that were kept."""


@dataclass(frozen=True)
class Result:
    """Averages over the contexts of the language."""

    kl: float
    """KL(truth || student), in nats."""
    kept_mass: float
    """The student's probability of the truth's twelve most likely tokens."""
    overconfidence: float
    """How much more likely the student thinks its most likely token than it is."""


def top(log_p: Tensor) -> Support:
    """The most likely ids, and a bucket of everything else."""
    kept, ids = log_p.topk(KEPT, dim=-1)
    return Support(kept, ids, log_p.scatter(-1, ids, -torch.inf).logsumexp(-1))


def top_zero(log_p: Tensor) -> Support:
    """The most likely ids as if there were no others, which many tools do by default."""
    return Support(*log_p.topk(KEPT, dim=-1))


def top_renormalised(log_p: Tensor) -> Support:
    """The most likely ids with the mass of all."""
    kept, ids = log_p.topk(KEPT, dim=-1)
    return Support(kept.log_softmax(-1), ids)


def sampled(log_p: Tensor) -> Support:
    """Ids drawn from the teacher, with their counts (arXiv:2503.16870)."""
    drawn = torch.multinomial(log_p.exp(), DRAWS, replacement=True)
    counts = torch.zeros_like(log_p).scatter_add(-1, drawn, torch.ones(drawn.shape))
    most, ids = counts.topk(DRAWS, dim=-1)
    return Support((most / DRAWS).log(), ids)


ARMS = (
    Arm("forward KL", 0.0),
    Arm("forward KL on 20 sampled ids", 0.0, teacher=sampled),
    Arm("forward KL, T = 2", 0.0, Output(temperature=2.0)),
    Arm("forward KL, T = 4", 0.0, Output(temperature=4.0)),
    Arm("reverse KL", 0.0, Output(divergence="reverse_kl")),
    Arm("forward KL, alpha = 0.5", 0.5),
    Arm("cross-entropy only", 1.0),
    Arm("centred-logit MSE", 0.0, Output(divergence="logit_mse")),
    Arm("top 12 with tail, alpha = 0.3", 0.3, teacher=top),
    Arm("top 12 with tail", 0.0, teacher=top),
    Arm("top 12 renormalised, alpha = 0.3", 0.3, teacher=top_renormalised),
    Arm("the same for both, alpha = 0.3", 0.3, teacher=top_renormalised, conditional=True),
    Arm("top 12, others zero", 0.0, teacher=top_zero),
)


def language(seed: int) -> Tensor:
    """True log-probabilities, [context, next]: mostly of low rank, with entropy of 3.1 nats."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(VOCABULARY, RANK, generator=generator)
    right = torch.randn(RANK, VOCABULARY, generator=generator)
    rest = torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    log_p: Tensor = (2.0 * (left @ right) / RANK**0.5 + 0.6 * rest).log_softmax(-1)
    return log_p


def train(arm: Arm, seed: int, steps: int = STEPS) -> Result:
    """Train a student in one way, and measure how far it ends from the truth."""
    truth = language(seed)
    torch.manual_seed(1000 + seed)
    hidden = (0.3 * torch.randn(VOCABULARY, RANK)).requires_grad_()
    head = (0.3 * torch.randn(VOCABULARY, RANK)).requires_grad_()
    optimizer = torch.optim.Adam([hidden, head], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    nothing = torch.zeros(TOKENS_PER_STEP, dtype=torch.long)
    for _ in range(steps):
        contexts = torch.randint(VOCABULARY, (TOKENS_PER_STEP,))
        following = torch.multinomial(truth[contexts].exp(), 1).squeeze(-1)
        student = Scores(hidden[contexts] @ head.t())
        loss = _loss(arm, student, truth[contexts], Targets(following, nothing, nothing))
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return _measure(truth, (hidden @ head.t()).detach().log_softmax(-1))


def _loss(arm: Arm, student: Scores, truth: Tensor, targets: Targets) -> Tensor:
    task: Tensor = Task().per_token(student, None, targets)
    if arm.alpha == 1:
        return task
    told, learner = arm.teacher(truth), student
    if arm.conditional and isinstance(told, Support):
        learner = Scores(student.logits.gather(-1, told.ids))
        told = Scores(told.log_probs)
    output = arm.output.per_token(learner, told, targets)
    return arm.alpha * task + (1 - arm.alpha) * output


def _measure(log_p: Tensor, log_q: Tensor) -> Result:
    most_likely = log_q.argmax(-1, keepdim=True)
    surplus = log_q.gather(-1, most_likely).exp() - log_p.gather(-1, most_likely).exp()
    return Result(
        kl=(log_p.exp() * (log_p - log_q)).sum(-1).mean().item(),
        kept_mass=log_q.gather(-1, log_p.topk(KEPT, dim=-1).indices).exp().sum(-1).mean().item(),
        overconfidence=surplus.mean().item(),
    )


def compare(arms: Sequence[Arm], seeds: int, steps: int) -> dict[str, list[Result]]:
    """Every arm with every seed, on the same languages and tokens."""
    return {arm.name: [train(arm, seed, steps) for seed in range(seeds)] for arm in arms}


def _table(results: dict[str, list[Result]]) -> str:
    rows = []
    for name, runs in sorted(results.items(), key=lambda item: _mean(item[1], "kl")):
        spread = statistics.stdev(run.kl for run in runs) if len(runs) > 1 else 0.0
        mass, surplus = _mean(runs, "kept_mass"), _mean(runs, "overconfidence")
        rows.append(
            [name, f"{_mean(runs, 'kl'):.4f} ± {spread:.4f}", f"{mass:.3f}", f"{surplus:+.3f}"]
        )
    return table(["arm", "KL(truth, student)", "mass on the top 12", "overconfidence"], rows)


def _mean(runs: Sequence[Result], field: str) -> float:
    return float(statistics.mean(getattr(run, field) for run in runs))


def _language_facts(seeds: int) -> dict[str, float]:
    truths = [language(seed) for seed in range(seeds)]
    entropies = [-(log_p.exp() * log_p).sum(-1).mean().item() for log_p in truths]
    masses = [log_p.exp().topk(KEPT, dim=-1).values.sum(-1).mean().item() for log_p in truths]
    return {"entropy": statistics.mean(entropies), "top_12_mass": statistics.mean(masses)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="How far from a known truth each way of training ends."
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=RESULTS / "oracle")
    options = parser.parse_args()
    torch.set_num_threads(1)  # such small products only lose by being shared out
    machine, started = machine_facts(), time.perf_counter()
    truth = _language_facts(options.seeds)
    results = compare(ARMS, options.seeds, options.steps)
    seconds = time.perf_counter() - started
    text = [
        "# Oracle: how far from a known truth each way of training ends",
        f"{options.seeds} languages with an entropy of {truth['entropy']:.2f} nats and "
        f"{truth['top_12_mass']:.3f} of the mass on the 12 most likely tokens; {options.steps} "
        f"steps of {TOKENS_PER_STEP} tokens; mean ± deviation; {seconds:.0f} seconds in all.",
        _table(results),
        described(machine),
    ]
    facts = {
        "machine": machine,
        "steps": options.steps,
        "seconds": round(seconds, 1),
        "language": truth,
        "arms": {name: [vars(run) for run in runs] for name, runs in results.items()},
    }
    publish("\n\n".join(text), facts, options.output)


if __name__ == "__main__":
    main()
