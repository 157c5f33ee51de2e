"""From files to `nexus.batch.Batch`: sources, chat templates, packing, mixing, loading."""
