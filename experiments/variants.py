"""The variants of the ablation, and where their results lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfrnn.files.classes import class_set

CLASSES = class_set("msrc21")
TEST_ITERATIONS = 10
CRF_EPOCHS = 6


@dataclass(frozen=True)
class Variant:
    """A way to go on from the network alone, and how it is measured."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)


END_TO_END = "end-to-end"
VARIANTS = {
    END_TO_END: Variant("CRF-RNN, end to end"),
    "longer": Variant("network alone, trained as long as end to end", {"network_epochs": CRF_EPOCHS, "crf_epochs": 0}),
    "frozen": Variant("CRF-RNN, network frozen", {"freeze_network": True}),
    "T1": Variant("1 iteration in training", {"train_iterations": 1}),
    "T3": Variant("3 iterations in training", {"train_iterations": 3}),
    "T10": Variant("10 iterations in training", {"train_iterations": 10}),
    "scalar": Variant("one weight for each kernel", {"crf_weights": "scalar"}),
    "per-class": Variant("a weight for each kernel and class", {"crf_weights": "per-class"}),
    "potts": Variant("Potts model kept", {"learn_compatibility": False}),
}


@dataclass(frozen=True)
class Experiment:
    """Where data lie and results go, and how long networks train."""

    data: Path
    output: Path
    network_epochs: int

    def folder(self, seed: int, name: str) -> Path:
        return self.output / f"seed{seed}" / name

    def network(self, seed: int, encoder: str | None = None) -> Path:
        """The model file of the network alone, on the default encoder or another one."""
        return self.folder(seed, "network" if encoder is None else f"network-{encoder}") / "model.safetensors"
