"""Weights in few bits: what values they round to, how they are stored, and how they run."""
