"""The dashboards that metrics can be sent to: trackio (local, no account), TensorBoard, W&B."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus import durable
from nexus.errors import UsageError
from nexus.redaction import redacted_values

PROJECT = "nexus"


class Trackio:
    """A local dashboard: `trackio show --project nexus` opens it, now or later."""

    def start(self, run: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        # It prints a write token, which has no place in a terminal that gets recorded.
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.init(
                project=PROJECT,
                name=name_on_dashboards(run),
                config=redacted_values(settings),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()  # type: ignore[no-untyped-call]


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def start(self, run: Path, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _absent("tensorboard", "tensorboard") from None
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def start(self, run: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise _absent("wandb", "wandb") from None
        name = name_on_dashboards(run)
        self._run = wandb.init(
            project=PROJECT,
            id=name,
            name=name,
            dir=str(run),
            config=redacted_values(settings),
            resume="allow",
            settings=wandb.Settings(disable_git=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._run.finish()


def name_on_dashboards(run: Path) -> str:
    """The same when a run is continued, and another for another run in a directory of its name."""
    file = run / "dashboard.txt"
    if not file.exists():
        durable.write(file, f"{run.resolve().name}-{secrets.token_hex(3)}")
    return file.read_text(encoding="utf-8")


def _absent(name: str, extra: str) -> UsageError:
    return UsageError(
        f"train.dashboard is '{name}', which is not installed. "
        f"Install nexus-distillation[{extra}] or set train.dashboard: trackio"
    )
