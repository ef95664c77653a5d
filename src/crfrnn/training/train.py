"""The paper's protocol: stage 1 trains the network alone, stage 2 the network and the CRF-RNN together."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

try:
    import tensorboard as _tensorboard  # type: ignore[import-untyped]  # noqa: F401
    import torch
    import torchmetrics as _torchmetrics  # noqa: F401
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError as error:
    raise ImportError(f"training needs {error.name}, which is not installed: pip install 'crfrnn[train]'") from error

from crfrnn.files.classes import ClassSet
from crfrnn.files.locks import alone_in
from crfrnn.files.progress import display
from crfrnn.models import NETWORKS
from crfrnn.training.checkpoints import (
    BEST,
    LAST,
    SUFFIX,
    CompleteFiles,
    Interrupted,
    Interruption,
    Patience,
    StopWhenAsked,
    checkpoints,
    read_checkpoint,
    require_checkpoint_of,
)
from crfrnn.training.config import (
    MACHINE_SETTINGS,
    RANK_SETTINGS,
    TrainingConfig,
    config_from,
    read_settings,
    write_config,
)
from crfrnn.training.epochs import EpochsShown
from crfrnn.training.machines import Meeting, SameRun, join, launched, ranks
from crfrnn.training.photos import TrainingPhotos
from crfrnn.training.stages import (
    CRF_STAGE,
    NETWORK_STAGE,
    RESULTS,
    StageResult,
    finished_stages,
    starting_segmenter,
    write_model,
    write_stages,
)
from crfrnn.training.task import SegmentationTask

SETTINGS, MODEL = "config.yaml", "model.safetensors"
STEPS_BETWEEN_LOGS = 10

NOISE = (
    ".*does not have many workers.*",
    "Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    "Found .* module.* in eval mode.*",
    ".*treespec, LeafSpec.*",
    "Grad strides do not match.*",
    "Trying to infer the `batch_size` from an ambiguous collection.*",
)
"""Warnings about things that are intended here."""
WITHOUT_TENSORFLOW = "tensorboard.compat.notf"
_NO_TENSORFLOW = ModuleType(WITHOUT_TENSORFLOW)


@dataclass(frozen=True)
class TrainingResult:
    """The finished model's file, and the results of the stages, "network" and "crf"."""

    model: Path
    stages: dict[str, StageResult]


def train(config: TrainingConfig, *, node_rank: int | None = None, main_address: str | None = None) -> TrainingResult:
    """Train as configured, or continue where an earlier call with the same configuration was interrupted.

    In the folder `config.output`: config.yaml; model.safetensors; for each stage a folder with best.ckpt and last.ckpt;
    training.json with the results of finished stages; logs/ for TensorBoard and as CSV.

    With `config.nodes` above 1 it is called on each of the machines; under torchrun and SLURM, these say how many there
    are. A run goes on with another number of processes too: what that changes is printed.

    Args:
        node_rank: Which of several machines this is, from 0; None is that of NODE_RANK, torchrun or SLURM.
        main_address: HOST:PORT of machine 0; None is that of MASTER_ADDR and MASTER_PORT, torchrun or SLURM.
    Raises:
        ValueError: if data, classes, initial weights and network do not fit together, the folder holds a run with other
            settings, another process trains in it, machines do not find each other, or the loss is not finite.
        ImportError: if a package is missing.
        KeyboardInterrupt: if it was interrupted; everything is saved. By another signal than that of Ctrl-C it is
            `crfrnn.interrupts.Terminated`.
    """
    if config.network not in NETWORKS:
        raise ValueError(f"there is no network {config.network!r}; there are {', '.join(NETWORKS)}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = launched(config)
    join(config, node_rank, main_address)
    classes, output = config.class_set(), Path(config.output)
    check_settings(output, config)
    photos = TrainingPhotos(config, classes)
    with alone_in(output, "training") if is_first_process() else nullcontext():
        finished = run_stages(config, photos, classes)
        model = output / MODEL
        write_model(model, config, classes, finished)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # a model of several processes that is alive when one of them ends aborts it at times
    return TrainingResult(model, finished)


def run_stages(config: TrainingConfig, photos: TrainingPhotos, classes: ClassSet) -> dict[str, StageResult]:
    """Train the stages that are not finished. Returns the results of all."""
    output = Path(config.output)
    finished = finished_stages(output)
    interruption = Interruption()
    with interruption.watched(), quiet():
        try:
            for stage, epochs in ((NETWORK_STAGE, config.network_epochs), (CRF_STAGE, config.crf_epochs)):
                if epochs and stage not in finished:
                    segmenter = starting_segmenter(config, classes, stage)
                    write_settings(output, config)
                    task = SegmentationTask(segmenter, config, photos.class_weights())
                    finished[stage] = run_stage(task, photos, stage, epochs, interruption)
                    write_stages(output, finished)
        except Interrupted as stopped:
            message = f"{output} has everything up to {stopped}; with the same settings, training goes on from there"
            raise interruption.as_exception(message) from None
        except SystemExit:  # how Lightning ends at a second Ctrl-C
            raise KeyboardInterrupt from None
    return finished


def run_stage(
    task: SegmentationTask, photos: TrainingPhotos, stage: str, epochs: int, interruption: Interruption
) -> StageResult:
    """Train a stage to its end, from its last checkpoint if there is one."""
    config = task.config
    output = Path(config.output)
    folder = output / stage
    best, last = checkpoints(folder)
    callbacks: list[Callback] = [
        meeting := Meeting(config),
        SameRun(config),
        EpochsShown(stage),
        StopWhenAsked(interruption, folder),
        best,
        last,
    ]
    if config.patience is not None:
        callbacks.insert(0, Patience(config.patience))
    try:
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[CompleteFiles()],
            logger=new_loggers(output / "logs", stage),
            log_every_n_steps=STEPS_BETWEEN_LOGS,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
    except MisconfigurationException as error:
        raise ValueError(f"accelerator={config.accelerator!r} and devices={config.devices}: {error}") from error
    path = folder / f"{LAST}{SUFFIX}"
    if path.exists():
        require_checkpoint_of(task, path)
    with meeting.awaited():
        trainer.fit(task, datamodule=photos, ckpt_path=path if path.exists() else None)
    return StageResult(
        read_checkpoint(folder / f"{BEST}{SUFFIX}")["epoch"] + 1, cast(torch.Tensor, best.best_model_score).item()
    )


def new_loggers(folder: Path, stage: str) -> list[Logger]:
    """Logs of a stage, in a new folder whenever it is resumed: no log is overwritten."""
    table = CSVLogger(folder, stage, flush_logs_every_n_steps=STEPS_BETWEEN_LOGS)
    return [table, TensorBoardLogger(folder, stage, table.version)]


def check_settings(output: Path, config: TrainingConfig) -> None:
    """Check that a run which has begun in this folder has the same settings.

    Raises: ValueError: naming the settings that differ.
    """
    path = output / SETTINGS
    begun = (output / RESULTS).exists() or any((output / stage).is_dir() for stage in (NETWORK_STAGE, CRF_STAGE))
    if not (begun and path.exists()):
        return
    earlier, now = asdict(config_from(read_settings(path))), asdict(config)
    changed = [
        f"{name} was {earlier[name]!r}, now {now[name]!r}"
        for name in now
        if earlier[name] != now[name] and name not in (*MACHINE_SETTINGS, *RANK_SETTINGS)
    ]
    if changed:
        raise ValueError(
            f"{output} holds a run with other settings: {'; '.join(changed)}. Choose another output, or remove it"
        )
    before, after = ranks(earlier), ranks(now)
    if before != after and is_first_process():
        size, processes = config.batch_size, f"{after} process{'es' if after > 1 else ''}"
        display().notice(
            f"going on with {processes} instead of {before}: a step takes {size * after} photos instead of "
            f"{size * before}, epochs have other steps, and an epoch that was begun begins anew; learning rates stay "
            f"as they are. The result is another one than with {before}"
        )


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes, of those that train together."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


@rank_zero_only
def write_settings(output: Path, config: TrainingConfig) -> None:
    """Write the settings beside the results."""
    write_config(output / SETTINGS, config)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks about things that are intended here, and leave TensorFlow out of TensorBoard.

    TensorBoard imports TensorFlow where it is installed, which takes seconds and prints remarks of its own, unless
    there is a module of the name that says it is not.
    """
    added = None if "tensorflow" in sys.modules else sys.modules.setdefault(WITHOUT_TENSORFLOW, _NO_TENSORFLOW)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for noise in NOISE:
            warnings.filterwarnings("ignore", noise)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if added is _NO_TENSORFLOW:
                del sys.modules[WITHOUT_TENSORFLOW]
