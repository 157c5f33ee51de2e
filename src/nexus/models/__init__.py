"""The address under which distillation is promised: `nexus.models.compression.distillation`."""
