"""What the fork server of trials.py imports once, so that no trial has to."""

from __future__ import annotations

import importlib.util

import datasets  # noqa: F401
import tools  # noqa: F401
import torch._dynamo  # noqa: F401 - PyTorch's optimisers import it when they first take a step

import nexus.pipeline  # noqa: F401
import nexus.report.plots  # noqa: F401

if importlib.util.find_spec("trl") is not None:
    import trl.experimental.gkd  # noqa: F401
