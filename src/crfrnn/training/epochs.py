"""How a training run shows itself: a bar for each epoch, and a line once it is over."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from crfrnn.files.progress import Bar, display
from crfrnn.training.task import METRIC

STEPS_BETWEEN_LOSSES = 10
"""Steps after which the bar reads the loss again: on a GPU it has to wait for it."""


class EpochsShown(Callback):
    """Stage and epoch, counted from 1, with loss and mean IoU: on a bar meanwhile, and on a line of stdout."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.start = time.monotonic()
        self.bar = Bar()
        self.loss, self.miou = "", ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)  # on_train_epoch_start is not called for a resumed epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % STEPS_BETWEEN_LOSSES == 0 and trainer.is_global_zero:
            self.loss = f"loss {trainer.callback_metrics['train_loss_step'].item():.4f}"
        self.bar.reach(batch_idx + 1, ", ".join(filter(None, [self.loss, self.miou])))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, int(sum(trainer.num_val_batches)), ", validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.bar.reach(batch_idx + 1, self.miou)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()
        found = trainer.callback_metrics
        if trainer.is_global_zero and METRIC in found:
            self.miou = f"mean IoU {found[METRIC]:.4f} after epoch {trainer.current_epoch + 1}"
            thetas = "".join(f"{name} {found[name]:.4g}, " for name in sorted(found) if name.startswith("theta_"))
            display().line(
                f"{epoch_words(self.stage, trainer)}: loss {found['train_loss_epoch']:.4f}, "
                f"validation loss {found['val_loss']:.4f}, mean IoU {found[METRIC]:.4f}, {thetas}"
                f"{time.monotonic() - self.start:.1f} s"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.close()

    def _begin(self, trainer: Trainer) -> None:
        self.start, self.loss = time.monotonic(), ""
        self._show(trainer, int(trainer.num_training_batches), "")

    def _show(self, trainer: Trainer, total: int, part: str) -> None:
        self.bar.close()
        if trainer.is_global_zero:
            self.bar = display().bar(total, f"{epoch_words(self.stage, trainer)}{part}")


def epoch_words(stage: str, trainer: Trainer) -> str:
    """The epoch that a stage is in, as people count."""
    return f"{stage}, epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
