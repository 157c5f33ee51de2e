"""KnowledgeDistiller: the distillation loss of two models, for your own loop and optimiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.kernels.lm_head import prove
from nexus.models.compression.distillation.fit import (
    common_vocabulary,
    refuse_self,
    refuse_too_long,
    refuse_what_looks_ahead,
)
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.signals import Mean, Signals
from nexus.teachers.ensemble import Ensemble
from nexus.teachers.local import LocalTeacher
from nexus.teachers.teacher import Teacher
from nexus.training.module import DistillationModule


class KnowledgeDistiller:
    """alpha · cross-entropy + (1 - alpha) · T² · D(teacher || student), averaged over targets.

    The loss of Hinton et al. (arXiv:1503.02531) for causal language models. It is computed from
    hidden states, chunk by chunk: no tensor of all logits is ever held.

        distiller = KnowledgeDistiller(teacher=teacher, student=student)
        loss = distiller.compute_loss(input_ids=ids, labels=labels)
        loss.backward()

    The teacher is frozen in place and put into eval mode. The student's mode, device, type and
    optimiser are yours.
    """

    def __init__(
        self,
        teacher: nn.Module | Sequence[nn.Module],
        student: nn.Module,
        temperature: float = 2.0,
        alpha: float = 0.5,
        *,
        divergence: str = "forward_kl",
        beta: float | None = None,
        normalize: bool | None = None,
        teacher_mean: Mean = "probability",
        tokenizer: PreTrainedTokenizerBase | None = None,
        compile: bool = False,
    ) -> None:
        """Check that the models fit together, and cut them at their heads.

        Args:
            teacher: a causal language model of transformers, or several.
            student: a causal language model with the same tokenizer; PEFT adapters are welcome.
            temperature: softens both. 2 is the specification's default; on language models 1
                measured best or equal at all scales (arXiv:2502.08606, G.2).
            alpha: the weight of cross-entropy on the labels. 0.5 is the specification's default;
                with a good teacher 0 to 0.3 measured best (arXiv:2502.08606, G.1).
            divergence: any name of `nexus.objectives.divergences.DIVERGENCES`.
            beta: of jsd. 0 is forward KL, 1 reverse KL.
            normalize: of jsd, to be continuous in beta at both ends.
            teacher_mean: how several teachers are averaged: their probabilities, or their logits.
            tokenizer: needed only if the models' heads differ in size, which padding causes.
            compile: compile the element-wise work of the loss; worth it for real vocabularies.

        Raises:
            UsageError: for settings out of range or models that do not fit together.
        """
        if not 0 <= alpha <= 1:
            raise UsageError(
                f"alpha is {alpha}, but it is a weight between 0 (distillation only) and 1 "
                "(cross-entropy on the labels only)"
            )
        output = Output.parse(
            {
                "weight": 1 - alpha,
                "temperature": temperature,
                "divergence": divergence,
                "beta": beta,
                "normalize": normalize,
            }
        )
        teachers = list(teacher) if isinstance(teacher, Sequence) else [teacher]
        if not teachers:
            raise UsageError("the list of teachers is empty: give at least one")
        refuse_self(teachers, student)
        vocabulary = common_vocabulary(teachers, student, tokenizer)
        self._vocabulary = vocabulary
        locals_ = [LocalTeacher(model, vocabulary, packed=False) for model in teachers]
        self.teacher: Teacher = locals_[0] if len(locals_) == 1 else Ensemble(locals_, teacher_mean)
        objectives = WeightedSum((Task(weight=alpha), output))
        self.module = DistillationModule(
            student, objectives, vocabulary, packed=False, fused=compile
        )
        self._trunks = [*(local.trunk for local in locals_), self.module.trunk]
        for trunk in self._trunks:
            refuse_what_looks_ahead(trunk)
            prove(trunk)

    def compute_loss(
        self,
        input_ids: Int[Tensor, "rows length"],
        labels: Int[Tensor, "rows length"] | None = None,
        attention_mask: Tensor | None = None,
        *,
        num_items_in_batch: int | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of one batch, ready for `backward`.

        Args:
            input_ids: padded on the right, on the left, or not at all.
            labels: as for transformers: not shifted, -100 where no token is to be learnt. Without
                them every token of the text is.
            attention_mask: 1 for tokens, 0 for padding.
            num_items_in_batch: what to divide by instead of this batch's own targets. With gradient
                accumulation give the number over all batches of the optimiser step.

        Raises:
            UsageError: for shapes that differ, ids or labels that are no tokens, or rows longer
                than the models' context.
        """
        batch = from_padded(input_ids, labels, attention_mask, self._vocabulary)
        for trunk in self._trunks:
            refuse_too_long(trunk.model, input_ids.shape[1])
        weights = self.module.objectives.weights(0, 1)
        wanted = self.module.wanted(weights)
        signals = self.teacher.signals(batch, wanted) if wanted else Signals()
        losses = self.module(batch, signals, weights)
        count = batch.target_count if num_items_in_batch is None else num_items_in_batch
        total: Tensor = losses.total / torch.as_tensor(count, device=losses.total.device).clamp(1)
        return total
