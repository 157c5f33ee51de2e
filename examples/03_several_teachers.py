"""Learn from several teachers at once: from the mean of what they say.

python examples/03_several_teachers.py [--teacher NAME --student NAME]
"""

from __future__ import annotations

import copy

import torch
from tiny import named_or_tiny, sentences

from nexus.models.compression.distillation import KnowledgeDistiller

teacher, student, tokenizer = named_or_tiny()
ids = tokenizer(sentences(8), return_tensors="pt", padding=True)


def disturbed(model, seed):
    """Another teacher: the same one after 5 % of noise on each of its weights."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight *= 1 + 0.05 * torch.randn(weight.shape, generator=generator)
    return other


teachers = [teacher, disturbed(teacher, 1), disturbed(teacher, 2)]

# Probabilities are averaged by default. The mean of logits suits teachers that differ by noise
# alone; teachers of different subjects had better not be averaged at all.
for mean in ("probability", "logit"):
    pupil = copy.deepcopy(student)
    distiller = KnowledgeDistiller(teachers, pupil, 1.0, alpha=0.0, teacher_mean=mean)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=3e-3)
    for step in range(20):
        loss = distiller.compute_loss(ids["input_ids"], attention_mask=ids["attention_mask"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 19 == 0:
            print(f"mean of the {mean}: step {step + 1}, loss {loss.item():.3f}")
