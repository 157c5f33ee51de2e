"""What each divergence says of the same two models, on the same text and at several temperatures.

python examples/02_divergences.py [--teacher NAME --student NAME]
"""

from __future__ import annotations

import torch
from tiny import named_or_tiny, sentences

from nexus.models.compression.distillation import KnowledgeDistiller, distillation_loss
from nexus.objectives.divergences import DIVERGENCES

teacher, student, tokenizer = named_or_tiny()
ids = tokenizer(sentences(4), return_tensors="pt", padding=True)["input_ids"]

# Without a loop: the divergence between two tensors of logits. Nothing is shifted, since both
# models say at every position what comes next.
with torch.no_grad():
    student_logits, teacher_logits = student(ids).logits, teacher(ids).logits
print(f"{'divergence':<22}{'T = 1':>9}{'T = 2':>9}{'T = 4':>9}")
for name, divergence in DIVERGENCES.items():
    if divergence.reads_targets:
        continue  # dkd asks which token is right: only the distiller knows
    values = [
        distillation_loss(student_logits, teacher_logits, T=T, divergence=name).item()
        for T in (1.0, 2.0, 4.0)
    ]
    print(f"{name:<22}" + "".join(f"{value:>9.3f}" for value in values))

# The generalised Jensen-Shannon divergence runs from forward KL (0) to reverse KL (1); normalised
# it does so without a jump at the ends.
for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
    distiller = KnowledgeDistiller(
        teacher, student, temperature=1.0, alpha=0.0, divergence="jsd", beta=beta, normalize=True
    )
    print(f"jsd, beta = {beta}:  {distiller.compute_loss(ids).item():.3f}")
