"""Divergences: pure functions of two log-probability tensors, and the table of their names.

Each takes the teacher's `log_p` and the student's `log_q` over one common support, normalised along
the last dimension, and returns one value per token in nats. None of them knows of temperature,
padding, truncation or reduction: `output.py` aligns, and the training loop reduces.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from nexus.signals import Signal


def forward_kl(log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"]) -> Float[Tensor, "*n"]:
    """KL(teacher p || student q): covers every mode of the teacher. Gradient in logits: q - p."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"]) -> Float[Tensor, "*n"]:
    """KL(student q || teacher p): seeks the teacher's main modes (MiniLLM, arXiv:2306.08543)."""
    return forward_kl(log_q, log_p)


def symmetric_kl(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"], *, reverse_share: float = 0.5
) -> Float[Tensor, "*n"]:
    """(1 - w) KL(p || q) + w KL(q || p), with w the `reverse_share`. Half is Jeffreys / 2."""
    forward, reverse = forward_kl(log_p, log_q), reverse_kl(log_p, log_q)
    return (1 - reverse_share) * forward + reverse_share * reverse


def jsd(
    log_p: Float[Tensor, "*n v"],
    log_q: Float[Tensor, "*n v"],
    *,
    beta: float = 0.5,
    normalize: bool = False,
) -> Float[Tensor, "*n"]:
    """Generalised Jensen-Shannon divergence of GKD (arXiv:2306.13649).

    With m = beta p + (1 - beta) q, it is beta KL(p || m) + (1 - beta) KL(q || m); beta 0 is forward
    and beta 1 is reverse KL. That convention jumps at both ends, since the formula itself goes to
    zero there: beta = 0.01 has a hundredth of forward KL's gradient. `normalize` divides by
    beta (1 - beta), which makes the whole range continuous.
    """
    if beta == 0:
        return forward_kl(log_p, log_q)
    if beta == 1:
        return reverse_kl(log_p, log_q)
    from_p, from_q = skew_kl(log_p, log_q, skew=beta), skew_kl(log_q, log_p, skew=1 - beta)
    value = beta * from_p + (1 - beta) * from_q
    return value / (beta * (1 - beta)) if normalize else value


def skew_kl(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"], *, skew: float = 0.1
) -> Float[Tensor, "*n"]:
    """KL(p || skew p + (1 - skew) q), at most -ln skew (DistiLLM, arXiv:2402.03898)."""
    if skew == 0:
        return forward_kl(log_p, log_q)
    # log(p / mixture) from the gap alone: as a difference of two logs it would be lost in rounding
    # where p is close to q.
    above = functional.logsigmoid(log_p - log_q + math.log(skew / (1 - skew))) - math.log(skew)
    return (log_p.exp() * above).sum(-1)


def skew_reverse_kl(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"], *, skew: float = 0.1
) -> Float[Tensor, "*n"]:
    """KL(q || skew q + (1 - skew) p), at most -ln skew (DistiLLM, arXiv:2402.03898)."""
    return skew_kl(log_q, log_p, skew=skew)


def adaptive_kl(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"], *, head_mass: float = 0.5
) -> Float[Tensor, "*n"]:
    """Forward KL weighted by the error in the teacher's head, reverse KL by that in its tail.

    The head is the most likely tokens of the teacher up to a cumulative mass of `head_mass`, the
    first always included. The weights are the shares of sum |p - q| and carry no gradient. Where
    p = q both shares are taken as one half (AKL, arXiv:2404.02657).
    """
    with torch.no_grad():
        p, gap = log_p.exp(), (log_p.exp() - log_q.exp()).abs()
        order = p.argsort(dim=-1, descending=True)
        in_head = p.gather(-1, order).cumsum(-1) <= head_mass
        in_head[..., 0] = True
        head = (gap.gather(-1, order) * in_head).sum(-1)
        total = gap.sum(-1)
        head_share = torch.where(total > 0, head / total.clamp_min(1e-30), 0.5)
    return head_share * forward_kl(log_p, log_q) + (1 - head_share) * reverse_kl(log_p, log_q)


def alpha_beta(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"], *, a: float = 0.5, b: float = 0.5
) -> Float[Tensor, "*n"]:
    """Alpha-beta divergence of Cichocki et al. (2011), used by ABKD (arXiv:2505.04560).

    -1/(ab) sum[p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)], and its limits where a, b or a + b is
    zero. (1, 0) is forward KL, (0, 1) reverse KL, (1/2, 1/2) four times the squared Hellinger
    distance, (1, 1) half the squared Euclidean distance.
    """
    gap = log_p - log_q
    if a == 0 and b == 0:
        return 0.5 * (gap**2).sum(-1)
    if b == 0:
        p_a = (a * log_p).exp()
        return (a * p_a * gap - p_a + (a * log_q).exp()).sum(-1) / a**2
    if a == 0:
        return alpha_beta(log_q, log_p, a=b, b=0.0)
    if a + b == 0:
        return (torch.expm1(a * gap) - a * gap).sum(-1) / a**2
    both = (a * log_p + b * log_q).exp()
    own_p, own_q = ((a + b) * log_p).exp(), ((a + b) * log_q).exp()
    return -(both - a / (a + b) * own_p - b / (a + b) * own_q).sum(-1) / (a * b)


def total_variation(
    log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"]
) -> Float[Tensor, "*n"]:
    """Half of sum |p - q|: one minus the acceptance rate of speculative decoding."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def logit_mse(log_p: Float[Tensor, "*n v"], log_q: Float[Tensor, "*n v"]) -> Float[Tensor, "*n"]:
    """Mean squared difference of centred logits.

    Centring removes the normaliser, so log-probabilities serve as well as logits; and because the
    output objective multiplies by T^2, the value does not depend on the temperature. Half of it is
    the limit of T^2 KL as T grows (Kim et al., arXiv:2105.08919).
    """
    gap = log_q - log_p
    return (gap - gap.mean(-1, keepdim=True)).square().mean(-1)


def dkd(
    log_p: Float[Tensor, "*n v"],
    log_q: Float[Tensor, "*n v"],
    targets: Int[Tensor, "*n"],
    *,
    target_weight: float = 1.0,
    rest_weight: float = 8.0,
) -> Float[Tensor, "*n"]:
    """Decoupled distillation (arXiv:2203.08679): the target against the rest, and within the rest.

    With weights 1 and 1 - p(target), token by token, the sum is forward KL.
    """
    at = targets.unsqueeze(-1)
    target_p, target_q = log_p.gather(-1, at).squeeze(-1), log_q.gather(-1, at).squeeze(-1)
    is_target = torch.arange(log_p.shape[-1], device=log_p.device) == at
    rest_p = log_p.masked_fill(is_target, -torch.inf).logsumexp(-1)
    rest_q = log_q.masked_fill(is_target, -torch.inf).logsumexp(-1)
    against = target_p.exp() * (target_p - target_q) + rest_p.exp() * (rest_p - rest_q)
    share = (log_p - rest_p.unsqueeze(-1)).exp().masked_fill(is_target, 0.0)
    within = (share * (log_p - log_q)).sum(-1) - (rest_p - rest_q)
    return target_weight * against + rest_weight * within


class Divergence(NamedTuple):
    """A row of the table: the function, what it needs of the support, whether it reads targets."""

    function: Callable[..., Tensor]
    needs: Signal = Signal.DISTRIBUTION
    sampled: bool = False
    """Whether it stays unbiased on a support of sampled ids: only sums of p · f(log q) do."""
    reads_targets: bool = False

    @property
    def parameters(self) -> frozenset[str]:
        signature = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in signature if p.kind is p.KEYWORD_ONLY)


_WHOLE = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY

DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": Divergence(forward_kl, sampled=True),
    "reverse_kl": Divergence(reverse_kl),
    "symmetric_kl": Divergence(symmetric_kl),
    "jsd": Divergence(jsd),
    "skew_kl": Divergence(skew_kl),
    "skew_reverse_kl": Divergence(skew_reverse_kl),
    "adaptive_kl": Divergence(adaptive_kl),
    "alpha_beta": Divergence(alpha_beta),
    "total_variation": Divergence(total_variation),
    "logit_mse": Divergence(logit_mse, needs=_WHOLE),
    "dkd": Divergence(dkd, needs=_WHOLE, reads_targets=True),
}
