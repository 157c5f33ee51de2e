"""Students: where the weights to be trained come from.

Every kind has `build(teacher_model, calibration, folder, seed)`, which returns a float32 model with
weights of its own. `AnyStudent` is the union of the kinds that a recipe can name.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nexus.students.layers import Layers
from nexus.students.pretrained import Pretrained
from nexus.students.pruned import Pruned
from nexus.students.scratch import Scratch

AnyStudent = Annotated[Pretrained | Scratch | Layers | Pruned, Field(discriminator="kind")]

AnyCut = Annotated[Layers | Pruned, Field(discriminator="kind")]
"""A student that is cut out of a larger model, which is the stage before's within a recipe."""
