"""Every loss once more, in float64 and from whole logits: what the fast way must come to."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, logaddexp
from torch.nn import functional

from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.objectives.task import Task


def reference(
    objective: Task | Output,
    student: Float[Tensor, "n v"],
    teacher: Float[Tensor, "n v"],
    tokens: Int[Tensor, " n"],
) -> float:
    """The objective's sum over positions, from float64 logits over the real vocabulary.

    PyTorch's own cross-entropy and KL divergence wherever the loss can be written in them, which
    proves formula, direction and T²; the other divergences are softened and scaled here, so that
    of them T² alone is proved.
    """
    if isinstance(objective, Task):
        return float(functional.cross_entropy(student, tokens, reduction="sum"))
    temperature = objective.temperature
    log_p = (teacher / temperature).log_softmax(-1)
    log_q = (student / temperature).log_softmax(-1)
    value = _divergence(objective, log_p, log_q, tokens)
    return float(value) * (temperature**2 if objective.square_temperature else 1.0)


def is_independent(objective: Task | Output) -> bool:
    """Whether the reference shares no formula with the objective."""
    written = ("forward_kl", "reverse_kl", "symmetric_kl", "jsd", "skew_kl", "skew_reverse_kl")
    return isinstance(objective, Task) or objective.divergence in written


def _divergence(objective: Output, log_p: Tensor, log_q: Tensor, tokens: Tensor) -> Tensor:
    given = {
        name: getattr(objective, name)
        for name in DIVERGENCES[objective.divergence].parameters
        if getattr(objective, name) is not None
    }
    match objective.divergence:
        case "forward_kl":
            return _kl(log_p, log_q)
        case "reverse_kl":
            return _kl(log_q, log_p)
        case "symmetric_kl":
            share = float(given.get("reverse_share", 0.5))
            return (1 - share) * _kl(log_p, log_q) + share * _kl(log_q, log_p)
        case "jsd":
            return _jsd(log_p, log_q, given.get("beta", 0.5), given.get("normalize", False))
        case "skew_kl":
            return _kl(log_p, _mixed(log_p, log_q, given.get("skew", 0.1)))
        case "skew_reverse_kl":
            return _kl(log_q, _mixed(log_q, log_p, given.get("skew", 0.1)))
        case name:
            row = DIVERGENCES[name]
            extra = (tokens,) if row.reads_targets else ()
            value: Tensor = row.function(log_p, log_q, *extra, **given)
            return value.sum()


def _kl(log_first: Tensor, log_second: Tensor) -> Tensor:
    """KL(first || second), which PyTorch wants the other way round."""
    return functional.kl_div(log_second, log_first, reduction="sum", log_target=True)


def _mixed(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    if share == 0:
        return log_second
    first = log_first.exp() * share
    return logaddexp(first.log(), (log_second.exp() * (1 - share)).log())


def _jsd(log_p: Tensor, log_q: Tensor, beta: float, normalize: bool) -> Tensor:
    if beta in (0, 1):
        return _kl(log_q, log_p) if beta else _kl(log_p, log_q)
    middle = _mixed(log_p, log_q, beta)
    value = beta * _kl(log_p, middle) + (1 - beta) * _kl(log_q, middle)
    return value / (beta * (1 - beta)) if normalize else value
