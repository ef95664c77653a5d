"""One stage of training as Lightning sees it: the loss, what is measured, and which weights learn how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassConfusionMatrix

from crfrnn.data.batches import Batch
from crfrnn.data.cells import means_of_pixels
from crfrnn.evaluation.metrics import iou_of_classes
from crfrnn.files.classes import VOID
from crfrnn.models import Segmenter
from crfrnn.models.segmenter import of_classes
from crfrnn.torch.losses import DenseCrfLoss, GatedCrfLoss, NormalizedCutLoss, PairwiseLoss
from crfrnn.training.config import IMAGENET, TrainingConfig
from crfrnn.training.features import KeptFeatures

CRF_LOSSES = {"dense": DenseCrfLoss, "gated": GatedCrfLoss, "normalized-cut": NormalizedCutLoss}
MOMENTUM = 0.9
LEAST = 1e-8
"""Smaller probabilities and sums count as this, so that there is no logarithm of 0 and no division by it."""
RANKS = "crfrnn_ranks"
"""What checkpoints call the number of processes that trained together."""
METRIC = "val_miou"
"""Mean IoU on the validation split, 0 to 1. The CRF, if there is one, runs for `test_iterations`."""


class MeanIoU(MulticlassConfusionMatrix):
    """The mean that `crfrnn.evaluation` measures: over the classes that occur in the labels, whatever is predicted."""

    def compute(self) -> Tensor:
        """The mean, 0 to 1."""
        return iou_of_classes(super().compute()).nanmean().float()


class SegmentationTask(LightningModule):
    """Cross-entropy of each pixel that has a class, a CRF loss of the network's scores and their distance to those of a
    teacher, and the mean IoU of validation.

    CRF loss and teacher look at the network's own scores in both stages: what the CRF-RNN makes of them is finer than
    what a teacher without one says, and only labels can tell whether it is right.

    The random numbers of a step depend only on the seed, the process and the number of the step. A run that continues
    after an interruption therefore draws what it would have drawn anyway.

    Args:
        segmenter: The network alone, or with the CRF-RNN that trains with it.
        config: Rates, iterations and seed.
        class_weights: Weight of each class in the loss, (classes,); None weighs all the same.
    """

    def __init__(self, segmenter: Segmenter, config: TrainingConfig, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.frozen = segmenter.crf is not None and config.freeze_network
        trained = segmenter.crf is not None or config.init not in (None, IMAGENET)
        self.fixed_statistics = self.frozen or (config.freeze_statistics and trained)
        self.fixed_encoder = config.freeze_encoder
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.miou = MeanIoU(config.class_set().num_classes, ignore_index=VOID, validate_args=False)
        self.crf_loss = None if self.frozen else crf_loss(config)
        if self.frozen:
            segmenter.network.requires_grad_(False)
        if self.fixed_encoder:
            self._encoder.requires_grad_(False)
            if config.crop is None and not config.colour:  # photos come as they are, or mirrored
                self._encoder.forward = KeptFeatures(self._encoder.forward)
        if segmenter.crf is not None:
            segmenter.crf.compatibility_matrix.requires_grad_(config.learn_compatibility)
        self.train()

    def train(self, mode: bool = True) -> SegmentationTask:
        """As for any module, but what has fixed statistics stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.fixed_statistics:
            self.segmenter.network.eval()
        if self.fixed_encoder:
            self._encoder.eval()
        return self

    @property
    def _encoder(self) -> nn.Module:
        return cast(nn.Module, self.segmenter.network.encoder)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C, H, W)."""
        return self._refined(self._unary(batch), batch)

    def _unary(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.segmenter.unary(batch.images)

    def _refined(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits if self.segmenter.crf is None else self.segmenter.refined(logits, batch.images, batch.masks)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seeds = np.random.SeedSequence([self.config.seed, self.global_rank, self.global_step])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch) -> Tensor:
        if self.segmenter.crf is not None:
            self.segmenter.crf.num_iterations = self.config.train_iterations
        unary = self._unary(batch)
        refined = self._refined(unary, batch)
        logs = log_probabilities(refined)
        loss = cross_entropy(logs, batch.labels, self.class_weights)
        teacher = None if self.frozen else batch.teacher
        if refined is not unary and (teacher is not None or self.crf_loss is not None):
            logs = log_probabilities(unary)
        if self.crf_loss is not None:
            # A pixel with a label has what it should agree with.
            gates = {"destination": batch.labels == VOID} if isinstance(self.crf_loss, GatedCrfLoss) else {}
            regulariser = self.crf_loss(logs.exp(), batch.images, batch.masks, **gates)
            loss = loss + self.config.crf_loss_weight * regulariser
        if teacher is not None:
            loss = loss + self.config.teacher_weight * distance_to_teacher(logs, batch.masks, teacher)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.global_step}: lower the learning rates"
                + ("" if self.config.precision == "32-true" else " or train with precision 32-true")
            )
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(batch.images), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        if self.segmenter.crf is not None:
            self.segmenter.crf.num_iterations = self.config.test_iterations
        logs = log_probabilities(self(batch))
        self.miou.update(logs.argmax(dim=1), batch.labels)
        self.log(METRIC, self.miou, on_step=False, on_epoch=True, batch_size=len(batch.images))
        loss = cross_entropy(logs, batch.labels, self.class_weights)
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.images), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.segmenter.crf is not None:
            for name, log in self.segmenter.crf.log_thetas.items():
                self.log(name, log.detach().exp(), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RANKS] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fit the state of a run to the number of processes that go on with it."""
        if checkpoint.get(RANKS, self.trainer.world_size) != self.trainer.world_size:
            refit(checkpoint, self._steps_of_an_epoch(), self._rate_factor)

    def configure_optimizers(self) -> Any:
        config = self.config
        groups = parameter_groups(self.segmenter, config)
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups)
        else:
            optimizer = torch.optim.SGD(groups, momentum=MOMENTUM)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps_of_an_epoch(self) -> int:
        # Not trainer.estimated_stepping_batches: it makes the loader before its state is restored.
        return len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]

    def _rate_factor(self, step: int) -> float:
        """What learning rates are multiplied by at a step."""
        steps = (self.trainer.max_epochs or 1) * self._steps_of_an_epoch()
        return float(max(0.0, 1 - step / steps) ** self.config.poly_power)


def refit(checkpoint: dict[str, Any], steps: int, rate_factor: Callable[[int], float]) -> None:
    """Fit a checkpoint to epochs of another number of steps, in place.

    An epoch that is over stays so; one that was begun begins anew. Learning rates go on from the same part of the
    training.

    Args:
        steps: Of an epoch from now on.
        rate_factor: What rates are multiplied by at each step.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches = loop["epoch_loop.batch_progress"]
    over = bool(batches["is_last_batch"])
    batches["current"] = dict.fromkeys(batches["current"], steps if over else 0)
    for state in loop["state_dict"].get("combined_loader", []):
        state["given"] = 0
    done = loop["epoch_progress"]["current"]["processed" if over else "completed"] * steps
    for schedule in checkpoint["lr_schedulers"]:
        schedule |= {"last_epoch": done, "_step_count": done + 1}
    for optimizer in checkpoint["optimizer_states"]:
        for group in optimizer["param_groups"]:
            group["lr"] = group["initial_lr"] * rate_factor(done)


def crf_loss(config: TrainingConfig) -> PairwiseLoss | None:
    """The loss for pixels without a label. A normalised cut normalises by itself."""
    if config.crf_loss is None:
        return None
    settings: dict[str, Any] = {"theta_alpha": config.crf_loss_theta_alpha, "theta_beta": config.crf_loss_theta_beta}
    if config.crf_loss != "normalized-cut":
        settings["normalization"] = config.normalization
    given = {name: value for name, value in settings.items() if value is not None}
    return CRF_LOSSES[config.crf_loss](**given)


def log_probabilities(logits: Tensor) -> Tensor:
    """The logarithms of the probabilities (B, C, H, W) of all classes, in float32 or finer.

    Losses share them, as they are most of what losses cost.
    """
    logits = of_classes(logits)
    return functional.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)


def cross_entropy(logs: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """The mean of -log p over the pixels with a class, each weighted by its class; 0 if no pixel has one.

    Args:
        logs: (B, C, H, W) log p of all classes.
        labels: (B, H, W), 255 where there is no class.
        class_weights: (C,) or None.
    """
    total = functional.nll_loss(logs, labels, class_weights, ignore_index=VOID, reduction="sum")
    known = labels != VOID
    weight = known.sum() if class_weights is None else class_weights[labels[known]].sum()
    return total / torch.where(weight > 0, weight, 1)


def distance_to_teacher(logs: Tensor, masks: Tensor, teacher: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence from a network's probabilities to a teacher's, both as means over cells.

    Cells count by the share of them that lies in the photo; those of which the teacher says nothing do not count.

    Args:
        logs: (B, C, H, W) log p of the network.
        masks: (B, H, W), 1 on the photo and 0 beside it.
        teacher: (B, C, cells, cells), as `crfrnn.data.cells.means_of_coarse` makes it.
    References: Hinton et al. 2015, at temperature 1.
    """
    means, shares = means_of_pixels(logs.exp(), masks)
    divergence = (torch.xlogy(teacher, teacher) - teacher * means.clamp(min=LEAST).log()).sum(dim=1)
    weights = shares * (teacher.sum(dim=1) > 0)
    return (weights * divergence).sum() / weights.sum().clamp(min=LEAST)


def balanced_weights(counts: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    """Weights (C,) by which rare classes count more: the median of all frequencies over that of the class.

    Args:
        counts: Pixels of each class; a class without any has weight 1, and so have all if there are none.
    References: Eigen & Fergus 2015, section 4.3.
    """
    present = counts > 0
    weights = np.ones(len(counts), np.float32)
    if present.any():
        weights[present] = np.median(counts[present]) / counts[present]
    return torch.from_numpy(weights)


def parameter_groups(segmenter: Segmenter, config: TrainingConfig) -> list[dict[str, Any]]:
    """The weights that learn, by learning rate and weight decay: kernels decay; biases, scales and the CRF do not."""
    network = segmenter.network
    encoder = getattr(network, "encoder", network)
    pretrained = set(encoder.parameters()) if isinstance(encoder, nn.Module) else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if segmenter.crf is not None:
            rate = config.crf_network_rate
        elif parameter in pretrained or config.decoder_rate is None:
            rate = config.network_rate
        else:
            rate = config.decoder_rate
        groups.setdefault((rate, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    if segmenter.crf is not None:
        for name, parameter in segmenter.crf.named_parameters():
            if parameter.requires_grad:
                rate = config.theta_rate if name.startswith("log_thetas.") else config.crf_weight_rate
                groups.setdefault((rate, 0.0), []).append(parameter)
    return [{"params": learned, "lr": rate, "weight_decay": decay} for (rate, decay), learned in groups.items()]
