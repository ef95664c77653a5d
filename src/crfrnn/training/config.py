"""All settings of a training run, in one value that is read from YAML and saved beside the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast, get_type_hints

from crfrnn.data.annotations import CLICK_RADIUS
from crfrnn.files.classes import BACKGROUND, ClassSet, class_set, named_classes
from crfrnn.files.opening import file_text
from crfrnn.files.parameter_files import load_parameters, require_defaults, short_form
from crfrnn.files.replacement import replacing
from crfrnn.numbers import finite_number, one_of, proper_fraction, whole_number
from crfrnn.parameters import CRFParameters

ClassWeights: TypeAlias = Literal["balanced"] | tuple[float, ...] | None

IMAGENET = "imagenet"
FOREGROUND = "foreground"
MACHINE_SETTINGS = ("accelerator", "workers", "threads")
"""Settings that say where a run is computed, not what it computes: they may change when it is resumed."""
LITE_SHAPE = ("encoder", "stride")
"""Settings of `FcnLite` that decide which weights there are."""
LITE_SETTINGS = (*LITE_SHAPE, "feature_dropout")
"""Settings of `FcnLite` alone."""
RANK_SETTINGS = ("devices", "nodes")
"""Settings that may change too; what that changes is told."""


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run. `crfrnn train --help` prints what each means.

    Raises: TypeError or ValueError: on construction, naming the setting, what was given and what was expected.
    """

    data: Annotated[str, "folder of the data set: images/ and labels/, PASCAL VOC's or CamVid's"]
    output: Annotated[str, "folder for the model, checkpoints, logs and these settings"]
    classes: Annotated[
        str,
        "voc, msrc21, camvid, a number of classes, or a file with a name on each line; a single one is the foreground, "
        "label 1 or the 255 of masks, in one channel",
    ] = "voc"
    train_split: Annotated[str, "split to train on"] = "train"
    val_split: Annotated[str, "split that chooses the best epoch"] = "val"
    network: Annotated[str, "FcnLite, Fcn8s, Fcn16s or Fcn32s"] = "FcnLite"
    encoder: Annotated[
        str | None, "of FcnLite: lite0, or lite1 or lite2, which know more and take longer; null: lite0"
    ] = None
    stride: Annotated[int | None, "of FcnLite's scores: 8, 16 or 32 pixels; coarser ones take less time; null: 8"] = (
        None
    )
    feature_dropout: Annotated[
        float | None, "of FcnLite: share of the encoder's channels that are left out in training; null: 0"
    ] = None
    init: Annotated[str | None, "weights to start from: imagenet (FcnLite), a model file, null for random"] = IMAGENET
    supervision: Annotated[
        str, "labels of the training photos: labels (of all pixels), clicks or scribbles; val_split has labels"
    ] = "labels"
    annotations: Annotated[
        str | None,
        "file of the clicks, or folder of the label images with scribbles, 255 elsewhere; may be inside data; null: "
        "clicks.json or scribbles/",
    ] = None
    click_radius: Annotated[int, "pixels that a click labels in each direction"] = CLICK_RADIUS
    teacher: Annotated[
        str | None,
        "folder of the scores of a stronger network, NAME.npy, .npz or tensors (classes, height, width) for training "
        "photos, which then need no labels; may be inside data",
    ] = None
    teacher_input: Annotated[
        str | None, "what those are: logits or probabilities; null: by the array's name, and logits without one"
    ] = None
    teacher_weight: Annotated[float, "weight of the distance to the teacher beside the cross-entropy"] = 1.0
    seed: Annotated[int, "seed of the weights, the order of the photos and their augmentation"] = 0

    crop: Annotated[
        tuple[int, int] | None, "height and width in pixels of the crops of the photos; null: whole photos as they are"
    ] = (256, 320)
    scale: Annotated[tuple[float, float], "smallest and largest random factor of the photos' size"] = (0.75, 1.5)
    flip: Annotated[bool, "mirror half of the photos"] = True
    colour: Annotated[float, "random change of brightness, contrast and saturation, 0 up to 1"] = 0.3
    class_weights: Annotated[
        ClassWeights,
        "weights of the classes in the loss: null, balanced (rare classes count more), or a number for each",
    ] = None
    crf_loss: Annotated[
        str | None, "loss for pixels without a label, of the network's scores: null, dense, gated or normalized-cut"
    ] = None
    crf_loss_weight: Annotated[float, "weight of the CRF loss beside the cross-entropy"] = 0.3
    crf_loss_theta_alpha: Annotated[
        float | None, "deviation of the CRF loss in pixels of the photos; null: as published, 100, or 6 of gated"
    ] = None
    crf_loss_theta_beta: Annotated[
        float | None, "deviation of the CRF loss in levels 0-255; null: as published, 15, or 25.5 of gated"
    ] = None

    batch_size: Annotated[int, "photos in a step, in each process"] = 8
    network_epochs: Annotated[int, "epochs of stage 1, the network alone; 0 leaves the stage out"] = 30
    crf_epochs: Annotated[int, "epochs of stage 2, network and CRF-RNN together; 0 leaves the stage out"] = 10
    patience: Annotated[int | None, "stop a stage after this many epochs without improvement; null: never"] = None
    optimizer: Annotated[str, "adamw, or sgd with momentum 0.9"] = "adamw"
    network_rate: Annotated[float, "learning rate in stage 1 of the network, or of its encoder if any"] = 3e-4
    decoder_rate: Annotated[float | None, "learning rate of all but the encoder in stage 1; null: network_rate"] = 3e-3
    crf_network_rate: Annotated[float, "learning rate of the whole network in stage 2"] = 1e-4
    crf_weight_rate: Annotated[float, "learning rate of the CRF's weights in stage 2"] = 1e-2
    freeze_encoder: Annotated[
        bool,
        "keep the encoder and its batch statistics as they are, and train what comes after it; with crop null and "
        "colour 0, what the encoder says of a photo is worked out once",
    ] = False
    weight_decay: Annotated[float, "decay of the network's convolutions; other weights have none"] = 1e-2
    poly_power: Annotated[float, "rates fall as (1 - step/steps)^poly_power; 0 keeps them"] = 0.9
    freeze_network: Annotated[bool, "train only the CRF's weights in stage 2"] = False
    freeze_statistics: Annotated[
        bool, "keep the batch statistics of a trained network, and its dropout off: in stage 2, or from a model file"
    ] = False

    theta_alpha: Annotated[float, "deviation of the bilateral kernel in pixels"] = 80.0
    theta_beta: Annotated[float, "deviation of the bilateral kernel in colour levels 0-255"] = 20.0
    theta_gamma: Annotated[float, "deviation of the spatial kernel in pixels"] = 3.0
    spatial_weight: Annotated[float, "weight of the spatial kernel at the start"] = 1.0
    bilateral_weight: Annotated[float, "weight of the bilateral kernel at the start"] = 1.0
    normalization: Annotated[str, "how filters of CRF and CRF loss are normalised: none, before, after, symmetric"] = (
        "after"
    )
    crf_weights: Annotated[str, "what is learned of the kernels' weights: full matrices, per-class or scalar"] = "full"
    learn_compatibility: Annotated[bool, "learn a full compatibility matrix, else keep the Potts model"] = True
    learn_theta: Annotated[bool, "learn the deviations theta_... as well, in stage 2"] = False
    theta_rate: Annotated[float, "learning rate of the logarithms of learned deviations"] = 5e-2
    train_iterations: Annotated[int, "mean-field iterations in training"] = 5
    test_iterations: Annotated[int, "mean-field iterations in validation and in the finished model"] = 10

    devices: Annotated[int, "processes on each machine that train together, each on a GPU if there are any"] = 1
    nodes: Annotated[int, "machines that train together; output is a folder that they share"] = 1
    accelerator: Annotated[str, "auto, cpu or gpu"] = "auto"
    precision: Annotated[str, "32-true, bf16-mixed or 16-mixed"] = "32-true"
    workers: Annotated[int, "processes per device that read photos ahead; 0 reads between the steps"] = 0
    threads: Annotated[int | None, "threads of PyTorch and the CRF; null leaves PyTorch's choice"] = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(getattr(self, name), name))
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale={self.scale} must have the lesser factor first")
        if self.supervision == "labels" and self.annotations is not None:
            raise ValueError(
                f"annotations={self.annotations!r} are clicks or scribbles, but supervision='labels': say which"
            )
        for name in LITE_SETTINGS:
            if getattr(self, name) is not None and self.network != "FcnLite":
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is of FcnLite, but network={self.network!r}: leave it out"
                )
        if self.freeze_encoder and (self.network != "FcnLite" or self.init is None):
            raise ValueError(
                f"freeze_encoder keeps what an encoder has learned elsewhere, but network={self.network!r} and "
                f"init={self.init!r}: give FcnLite, and imagenet or a model file as init, or leave it out"
            )
        for name, needed in _NEEDED.items():
            if getattr(self, name) != _DEFAULTS[name] and not getattr(self, needed):
                raise ValueError(f"{name}={getattr(self, name)!r} has no effect without {needed}: give that too")
        if not self.network_epochs and not self.crf_epochs:
            raise ValueError("network_epochs=0 and crf_epochs=0 leave nothing to train: raise one of them")
        if not self.network_epochs and self.init in (None, IMAGENET):
            raise ValueError(
                f"network_epochs=0 leaves out the network's own training, but init={self.init!r} is not a trained "
                "network: give the file of a model as init, or raise network_epochs"
            )
        weights, num_classes = self.class_weights, self.class_set().num_classes
        if isinstance(weights, tuple) and len(weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(weights)} numbers, but classes={self.classes!r} are {num_classes}: "
                "give one for each"
            )
        self.crf_parameters()

    def class_set(self) -> ClassSet:
        """The classes to learn; a single one is that of the foreground, after a background.

        Raises: ValueError: if no set of classes has that name.
        """
        found = class_set(self.classes)
        if found.num_classes > 1:
            return found
        return named_classes((BACKGROUND, FOREGROUND if self.classes == "1" else found.names[0]))

    @property
    def channels(self) -> int:
        """Of the network's logits: one for each class, or a single one for a single class."""
        return class_set(self.classes).num_classes

    def crf_parameters(self) -> CRFParameters:
        """The CRF's constants, checked."""
        return CRFParameters(
            theta_alpha=self.theta_alpha,
            theta_beta=self.theta_beta,
            theta_gamma=self.theta_gamma,
            spatial_weight=self.spatial_weight,
            bilateral_weight=self.bilateral_weight,
            normalization=cast(Any, self.normalization),
            iterations=self.test_iterations,
        )


def config_from(settings: Mapping[str, object]) -> TrainingConfig:
    """A configuration from settings by name. Raises ValueError for a setting that does not exist or is missing."""
    known = [setting.name for setting in fields(TrainingConfig)]
    unknown = [str(name) for name in settings if name not in known]
    if unknown:
        raise ValueError(f"there is no setting {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    missing = [name for name in ("data", "output") if settings.get(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given: {_MEANINGS[missing[0]]}")
    return TrainingConfig(**cast(dict[str, Any], dict(settings)))


CRF_SETTINGS = {
    "theta_alpha": "theta_alpha",
    "theta_beta": "theta_beta",
    "theta_gamma": "theta_gamma",
    "spatial_weight": "spatial_weight",
    "bilateral_weight": "bilateral_weight",
    "normalization": "normalization",
    "iterations": "test_iterations",
}
"""The fields of `CRFParameters` that are settings, and the names of those settings."""


def settings_of(path: Path) -> dict[str, object]:
    """The settings that a parameters file gives: what the CRF starts with, and its constants.

    Raises: ValueError: naming the file and a field that is not a setting, or that holds more than one number.
    """
    parameters = short_form(load_parameters(path), f"training, given {path},")
    settings = {setting: getattr(parameters, name) for name, setting in CRF_SETTINGS.items()}
    several = [name for name, value in settings.items() if isinstance(value, tuple)]
    if several:
        raise ValueError(f"{path}: {several[0]} holds several numbers; training starts with a single number")
    try:
        require_defaults(parameters, tuple(CRF_SETTINGS), "training")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def read_settings(path: Path) -> dict[str, object]:
    """The settings in a YAML file. Raises ValueError if it is not YAML or holds something else."""
    yaml = _yaml()
    try:
        content = yaml.safe_load(file_text(path))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read settings from {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings; expected lines such as `batch_size: 8`")
    return content


def write_config(path: Path, config: TrainingConfig) -> None:
    """Every setting, as YAML."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    with replacing(path) as handle:
        handle.write(_yaml().safe_dump(settings, sort_keys=False, allow_unicode=True).encode())


def parsed(name: str, text: str) -> object:
    """The value of a setting on the command line: as in YAML, or numbers separated by commas; names as they are."""
    if _CHECKS[name] is _text or (_CHECKS[name] is _text_or_null and text != "null"):
        return text
    yaml = _yaml()
    try:
        return yaml.safe_load(f"[{text}]" if "," in text and not text.startswith("[") else text)
    except yaml.YAMLError:
        return text


def meaning_of(name: str) -> str:
    """What a setting means, in a line."""
    return _MEANINGS[name]


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("settings are written in YAML, which needs: pip install 'crfrnn[train]'") from error
    return yaml


Check = Callable[[Any, str], object]


def _text(value: Any, name: str) -> str:
    """Text. Paths and whole numbers count as text too, because YAML reads 21 as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | Path) or not str(value).strip():
        raise TypeError(f"{name}={value!r} must be text: {_MEANINGS[name]}")
    return str(value)


def _text_or_null(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be true or false")
    return value


def _number(value: Any, name: str) -> float:
    """A finite number. Text is accepted, because YAML reads 1e-3, without a point, as text."""
    try:
        return finite_number(float(value) if isinstance(value, str) else value, name)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} must be a finite number") from None


def _at_least_0(value: Any, name: str) -> float:
    number = _number(value, name)
    if number < 0:
        raise ValueError(f"{name}={number} must be at least 0")
    return number


def _above_0(value: Any, name: str) -> float:
    number = _number(value, name)
    if number <= 0:
        raise ValueError(f"{name}={number} must be above 0")
    return number


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer")
    return whole_number(value, name)


def _at_least_1(value: Any, name: str) -> int:
    number = _count(value, name)
    if number < 1:
        raise ValueError(f"{name}={number} must be at least 1")
    return number


def _of(*choices: str) -> Check:
    def check(value: Any, name: str) -> str:
        one_of(value, choices, name)
        return str(value)

    return check


def _stride(value: Any, name: str) -> int:
    number = _count(value, name)
    if number not in (8, 16, 32):
        raise ValueError(f"{name}={number} must be 8, 16 or 32")
    return number


def _optional(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _two(check: Check) -> Check:
    def checked(value: Any, name: str) -> tuple[object, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ValueError(f"{name}={value!r} must be two numbers: {_MEANINGS[name]}")
        return tuple(check(part, name) for part in value)

    return checked


def _class_weights(value: Any, name: str) -> ClassWeights:
    if value is None or value == "balanced":
        return cast(ClassWeights, value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name}={value!r} is unknown; use null, 'balanced' or a number for each class")
    weights = tuple(_at_least_0(part, name) for part in value)
    if not any(weights):
        raise ValueError(f"{name} are all 0, so that no label counts: give a number above 0 for some class")
    return weights


_MEANINGS: dict[str, str] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(TrainingConfig, include_extras=True).items()
}

_DEFAULTS: dict[str, Any] = {setting.name: setting.default for setting in fields(TrainingConfig)}
_NEEDED = {
    **dict.fromkeys(("crf_loss_weight", "crf_loss_theta_alpha", "crf_loss_theta_beta"), "crf_loss"),
    "theta_rate": "learn_theta",
    "scale": "crop",
    **dict.fromkeys(("teacher_input", "teacher_weight"), "teacher"),
}
"""Settings that say how something is done, and the one that says whether."""

_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("data", "output", "classes", "train_split", "val_split", "network"), _text),
    **dict.fromkeys(("init", "annotations", "teacher"), _text_or_null),
    "encoder": _optional(_of("lite0", "lite1", "lite2")),
    "stride": _optional(_stride),
    "feature_dropout": _optional(proper_fraction),
    "teacher_input": _optional(_of("logits", "probabilities")),
    "teacher_weight": _at_least_0,
    "supervision": _of("labels", "clicks", "scribbles"),
    "crf_loss": _optional(_of("dense", "gated", "normalized-cut")),
    "crf_loss_weight": _at_least_0,
    **dict.fromkeys(("crf_loss_theta_alpha", "crf_loss_theta_beta"), _optional(_above_0)),
    **dict.fromkeys(("seed", "network_epochs", "crf_epochs", "workers", "test_iterations", "click_radius"), _count),
    **dict.fromkeys(("batch_size", "devices", "nodes", "train_iterations"), _at_least_1),
    **dict.fromkeys(("patience", "threads"), _optional(_at_least_1)),
    **dict.fromkeys(("flip", "freeze_encoder", "freeze_network", "freeze_statistics"), _truth),
    **dict.fromkeys(("learn_compatibility", "learn_theta"), _truth),
    "crop": _optional(_two(_at_least_1)),
    "scale": _two(_above_0),
    "colour": proper_fraction,
    "class_weights": _class_weights,
    "optimizer": _of("adamw", "sgd"),
    **dict.fromkeys(("network_rate", "crf_network_rate", "crf_weight_rate", "theta_rate"), _above_0),
    "decoder_rate": _optional(_above_0),
    **dict.fromkeys(("weight_decay", "poly_power"), _at_least_0),
    **dict.fromkeys(("theta_alpha", "theta_beta", "theta_gamma"), _above_0),
    **dict.fromkeys(("spatial_weight", "bilateral_weight"), _number),
    "normalization": _of("none", "before", "after", "symmetric"),
    "crf_weights": _of("full", "per-class", "scalar"),
    "accelerator": _of("auto", "cpu", "gpu"),
    "precision": _of("32-true", "bf16-mixed", "16-mixed"),
}
