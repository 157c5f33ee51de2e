"""Kernels: the parts of a step that decide its speed and memory."""
