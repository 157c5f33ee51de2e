"""Train a low-rank adapter on the student instead of all its weights, and merge it afterwards.

python examples/05_lora.py [--teacher NAME --student NAME]
"""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from tiny import named_or_tiny, sentences

from nexus.models.compression.distillation import KnowledgeDistiller

teacher, base, tokenizer = named_or_tiny()
ids = tokenizer(sentences(8), return_tensors="pt", padding=True)

# The adapter may sit on the head too: the loss sees it there. Dropout on the head it refuses.
student = get_peft_model(
    base,
    LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM"
    ),
)
student.print_trainable_parameters()

distiller = KnowledgeDistiller(teacher, student, temperature=1.0, alpha=0.0)
trained = [weight for weight in student.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-2)
for step in range(30):
    loss = distiller.compute_loss(ids["input_ids"], attention_mask=ids["attention_mask"])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 29 == 0:
        print(f"step {step + 1}: loss {loss.item():.3f}")

merged = student.merge_and_unload()  # an ordinary transformers model again
print(f"merged: {sum(weight.numel() for weight in merged.parameters()):,} weights")
