"""What a training run saves on its way, so that it can stop at any time and continue later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from crfrnn.files.progress import display
from crfrnn.files.replacement import replacing
from crfrnn.interrupts import ENDING, Terminated
from crfrnn.training.epochs import epoch_words
from crfrnn.training.task import METRIC

BEST, LAST = "best", "last"
SUFFIX = ".ckpt"
SIGNALS = (signal.SIGINT, *ENDING)

WEIGHTS: Mapping[str, type] = {"epoch": int, "state_dict": dict}
"""What the checkpoint of the best epoch holds, and what the last one holds besides, from which a run goes on."""
STATE: Mapping[str, type] = {
    "callbacks": dict,
    "global_step": int,
    "loops": dict,
    "lr_schedulers": list,
    "optimizer_states": list,
}
ANEW = "remove {} to train this stage anew"


class Interrupted(Exception):  # noqa: N818, as it is not an error
    """Training stopped because it was asked to, with everything saved up to what its message says."""


class CompleteFiles(TorchCheckpointIO):
    """Checkpoints that replace older ones only once they are complete, and that are read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as handle:
            torch.save(checkpoint, handle)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """What a run has saved; no code in it runs.

    Args:
        mapped: Leave tensors on disk until they are used.
    Raises: ValueError: if it cannot be read, or is no checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"cannot read the checkpoint {path}: there is no such file; {ANEW.format(path.parent)}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds for damaged files
        kind = type(error).__name__
        raise ValueError(f"the checkpoint {path} is damaged, or none ({kind}); {ANEW.format(path.parent)}") from error
    _require_content(found, WEIGHTS, path)
    return dict(found)


def require_checkpoint_of(task: LightningModule, path: Path) -> None:
    """Raise a ValueError if a run of this task cannot go on from a checkpoint."""
    found = read_checkpoint(path, mapped=True)
    _require_content(found, STATE, path)
    _require_content(found["loops"], {"fit_loop": dict}, path)
    shapes = {key: tuple(tensor.shape) for key, tensor in task.state_dict().items()}
    if {key: tuple(getattr(tensor, "shape", ())) for key, tensor in found["state_dict"].items()} != shapes:
        raise ValueError(f"{path} is the checkpoint of another network; {ANEW.format(path.parent)}")


def _require_content(found: Any, content: Mapping[str, type], path: Path) -> None:
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in content.items()):
        raise ValueError(f"{path} is no checkpoint that training can go on from; {ANEW.format(path.parent)}")


def checkpoints(folder: Path) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Callbacks that save the best epoch's weights, and then everything that a run needs to continue.

    The second records the state of the first, so it comes after it.
    """
    best = ModelCheckpoint(
        folder,
        BEST,
        monitor=METRIC,
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return best, ModelCheckpoint(folder, LAST, save_on_train_epoch_end=True, enable_version_counter=False)


class Patience(EarlyStopping):
    """Stop after epochs without improvement. A resumed run that had stopped for this reason stays stopped."""

    def __init__(self, patience: int) -> None:
        super().__init__(METRIC, mode="max", patience=patience, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class Interruption:
    """Whether the process was asked to stop, by Ctrl-C or another signal; a second Ctrl-C stops it at once.

    Signals that the process ignores, as SIGHUP under nohup, stay ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT
        self.before: dict[signal.Signals, Any] = {}

    def as_exception(self, message: str) -> KeyboardInterrupt:
        """What tells callers which signal it was."""
        return KeyboardInterrupt(message) if self.number == signal.SIGINT else Terminated(self.number, message)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen for the signals, and restore the process's signal handlers at the end."""
        self.before = before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Handle the signals from now on. Only the main thread receives them; in any other thread this does nothing."""
        if threading.current_thread() is threading.main_thread() and not self.asked:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self.number = True, number
            display().notice("stopping where training can go on later; another Ctrl-C stops at once")
        if number == signal.SIGINT:
            signal.signal(number, self.before[signal.SIGINT])


class StopWhenAsked(Callback):
    """Save the state of training and stop, between two steps.

    Validation belongs to the epoch: after its last step nothing is saved until validation is done.
    """

    def __init__(self, interruption: Interruption, folder: Path) -> None:
        self.interruption, self.folder = interruption, folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed a handler over ours that would abandon a validation half-way.
        self.interruption.listen()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._asked_anywhere(trainer) and not trainer.is_last_batch:
            trainer.save_checkpoint(self.folder / f"{LAST}{SUFFIX}")
            step = f"step {trainer.fit_loop.batch_idx + 1} of {trainer.num_training_batches}"
            raise Interrupted(f"{epoch_words(self.folder.name, trainer)}, {step}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked_anywhere(trainer):
            raise Interrupted(f"the start of {epoch_words(self.folder.name, trainer)}")

    def _asked_anywhere(self, trainer: Trainer) -> bool:
        """Whether any of the processes was asked to stop: all must stop after the same step."""
        return bool(trainer.strategy.reduce_boolean_decision(self.interruption.asked, all=False))
