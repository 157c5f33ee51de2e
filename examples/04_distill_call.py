"""A whole run in one call: packing, schedule, checkpoints, evaluation and a report.

python examples/04_distill_call.py [--teacher NAME --student NAME]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tiny import named_or_tiny, sentences

from nexus.models.compression.distillation import distill

teacher, student, tokenizer = named_or_tiny()
texts = sentences(64)
folder = Path(tempfile.mkdtemp(prefix="nexus-"))  # yours would be kept: runs/first

trained = distill(
    teacher,
    student,
    [{"text": text} for text in texts[:48]],  # or a JSONL file, or messages
    T=1.0,
    alpha=0.1,
    steps=20,
    heldout=texts[48:],
    tokenizer=tokenizer,  # only models that were not loaded by name need it here
    sequence_length=128,
    output=folder / "first",
    train={"learning_rate": 3e-3, "warmup_steps": 2},
)

prompt = tokenizer(texts[0][:20], return_tensors="pt")
written = trained.generate(**prompt, max_new_tokens=12, do_sample=False)
print("continues:", tokenizer.decode(written[0]))
print("report:", folder / "first" / "report.html")
