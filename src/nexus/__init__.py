"""Nexus distils large language models, and proves how much of the teacher is left."""

__version__ = "0.1.0"
