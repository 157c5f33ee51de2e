"""Distillation inside your own training loop, and as one call.

Everything here is a thin composition of the same parts that `nexus distill` uses.
"""

from nexus.models.compression.distillation.distiller import KnowledgeDistiller
from nexus.models.compression.distillation.loss import distillation_loss
from nexus.models.compression.distillation.pruner import MinitronPruner
from nexus.models.compression.distillation.quantizer import quantize
from nexus.models.compression.distillation.run import distill

__all__ = ["KnowledgeDistiller", "MinitronPruner", "distill", "distillation_loss", "quantize"]
