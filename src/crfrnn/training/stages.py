"""What each stage starts with and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from crfrnn.files.classes import ClassSet
from crfrnn.files.opening import file_text
from crfrnn.files.replacement import replacing
from crfrnn.models import NETWORKS, Segmenter, load_model, save_model
from crfrnn.models.store import copy_state
from crfrnn.torch import CrfRnn
from crfrnn.training.checkpoints import BEST, SUFFIX, read_checkpoint
from crfrnn.training.config import IMAGENET, LITE_SETTINGS, LITE_SHAPE, TrainingConfig

NETWORK_STAGE, CRF_STAGE = "network", "crf"
"""The names of the stages and of their folders: the network alone, and network and CRF-RNN together."""
RESULTS = "training.json"


@dataclass(frozen=True)
class StageResult:
    """The best epoch of a stage, counted from 1, and its mean IoU on the validation split, 0 to 1."""

    epoch: int
    val_miou: float


def new_segmenter(config: TrainingConfig, classes: ClassSet, stage: str) -> Segmenter:
    """The segmenter of a stage, with random weights."""
    seed_everything(config.seed, verbose=False)
    chosen = {name: getattr(config, name) for name in LITE_SETTINGS}
    options = {name: value for name, value in chosen.items() if value is not None}
    network = NETWORKS[config.network](num_classes=config.channels, **options)
    if stage == NETWORK_STAGE:
        return Segmenter(network, None)
    crf = CrfRnn(
        config.channels,
        config.test_iterations,
        config.theta_alpha,
        config.theta_beta,
        config.theta_gamma,
        config.spatial_weight,
        config.bilateral_weight,
        config.crf_parameters().normalization,
        weights=config.crf_weights,  # type: ignore[arg-type]
        compatibility="full" if config.learn_compatibility else "scalar",
        learn_theta=config.learn_theta,
    )
    return Segmenter(network, crf)


def starting_segmenter(config: TrainingConfig, classes: ClassSet, stage: str) -> Segmenter:
    """The segmenter that a stage starts with: stage 2 takes the network of stage 1's best epoch, if there was one."""
    segmenter = new_segmenter(config, classes, stage)
    if stage == CRF_STAGE and config.network_epochs:
        restore(Segmenter(segmenter.network, None), Path(config.output) / NETWORK_STAGE)
    else:
        initialise(segmenter.network, config, classes)
    return segmenter


def initialise(network: nn.Module, config: TrainingConfig, classes: ClassSet) -> None:
    """Give a network the weights that `config.init` names.

    Raises: ValueError: if they belong to another network or to other classes.
    """
    if config.init is None:
        return
    if config.init == IMAGENET:
        load_imagenet: Callable[[], None] | None = getattr(network, "load_imagenet", None)
        if load_imagenet is None:
            raise ValueError(
                f"there are no ImageNet weights for {config.network}: give a model file as init, or null for random "
                "weights"
            )
        load_imagenet()
        return
    model = load_model(config.init)
    found = type(model.segmenter.network).__name__
    if found != config.network:
        raise ValueError(f"{config.init} holds a {found}, but network={config.network!r}: they must be the same")
    if model.classes.names != classes.names:
        raise ValueError(
            f"{config.init} has other classes ({', '.join(model.classes.names[:3])}, …; {model.classes.num_classes}) "
            f"than classes={config.classes!r} ({', '.join(classes.names[:3])}, …; {classes.num_classes})"
        )
    if model.segmenter.network.num_classes != config.channels:
        raise ValueError(f"{config.init} has {model.segmenter.network.num_classes} channels, not {config.channels}")
    for name in LITE_SHAPE:
        there, wanted = (getattr(each, "options", {}).get(name) for each in (model.segmenter.network, network))
        if there != wanted:
            raise ValueError(f"{config.init} has the {name} {there}, not {wanted}: give {name}={there!r}")
    network.load_state_dict(model.segmenter.network.state_dict())


def finished_stages(output: Path) -> dict[str, StageResult]:
    """The results of the stages that are done."""
    path = output / RESULTS
    if not path.exists():
        return {}
    try:
        return {stage: StageResult(**result) for stage, result in json.loads(file_text(path)).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read the results of finished stages from {path}: {error}") from error


@rank_zero_only
def write_stages(output: Path, finished: dict[str, StageResult]) -> None:
    with replacing(output / RESULTS) as handle:
        handle.write(json.dumps({stage: asdict(result) for stage, result in finished.items()}, indent=2).encode())


@rank_zero_only
def write_model(path: Path, config: TrainingConfig, classes: ClassSet, finished: dict[str, StageResult]) -> None:
    """The best epoch of the last stage as a model file."""
    stage = CRF_STAGE if config.crf_epochs else NETWORK_STAGE
    segmenter = new_segmenter(config, classes, stage)
    restore(segmenter, path.parent / stage)
    notes = {
        "data": f"{Path(config.data).name}, split {config.train_split}",
        **({} if config.teacher is None else {"teacher": Path(config.teacher).name}),
        "seed": str(config.seed),
        **{
            f"mean IoU on {config.val_split}, stage {name}": f"{result.val_miou:.4f} in epoch {result.epoch}"
            for name, result in finished.items()
        },
    }
    save_model(path, segmenter, classes, notes=notes)


def restore(segmenter: Segmenter, folder: Path, epoch: str = BEST) -> None:
    """Give a segmenter the weights of a stage's best epoch, or of its last."""
    prefix = "segmenter."
    path = folder / f"{epoch}{SUFFIX}"
    state = {key.removeprefix(prefix): value for key, value in read_checkpoint(path)["state_dict"].items()}
    copy_state(segmenter, state, str(path))
