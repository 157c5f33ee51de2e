"""Output distillation in your own loop: the optimiser, the data and the schedule stay yours.

python examples/01_output.py [--teacher NAME --student NAME]
"""

from __future__ import annotations

import torch
from tiny import named_or_tiny, sentences

from nexus.models.compression.distillation import KnowledgeDistiller

teacher, student, tokenizer = named_or_tiny()
texts = sentences(64)


def batches():
    """Padded on the right, with -100 where nothing is to be learnt, as transformers has it."""
    for start in range(0, len(texts), 8):
        batch = tokenizer(texts[start : start + 8], return_tensors="pt", padding=True)
        padding = batch["attention_mask"] == 0
        yield batch | {"labels": batch["input_ids"].masked_fill(padding, -100)}


distiller = KnowledgeDistiller(
    teacher=teacher,
    student=student,
    temperature=2.0,
    alpha=0.5,  # half cross-entropy on the text, half divergence from the teacher
)
optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)

for epoch in range(3):
    for batch in batches():
        loss = distiller.compute_loss(
            input_ids=batch["input_ids"],
            labels=batch["labels"],
            attention_mask=batch["attention_mask"],
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
