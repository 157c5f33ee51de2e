"""Objectives: what training makes small. Each gives a loss per token and never reduces."""
