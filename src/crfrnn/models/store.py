"""Segmenters on disk: a safetensors file with the weights, whose header holds all that is needed to rebuild them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor, nn

from crfrnn.crf import decoded, encoded
from crfrnn.files.classes import ClassSet
from crfrnn.files.replacement import replacing
from crfrnn.models.fcn import Fcn8s, Fcn16s, Fcn32s
from crfrnn.models.fcn_lite import FcnLite
from crfrnn.models.segmenter import Segmenter
from crfrnn.numbers import file_path
from crfrnn.torch import CrfRnn
from crfrnn.torch.layer import Trained

FORMAT = 1
HEADER = "crfrnn"
"""The key in the file's metadata that holds the description of the model, as JSON."""

NETWORKS: dict[str, type[nn.Module]] = {network.__name__: network for network in (FcnLite, Fcn8s, Fcn16s, Fcn32s)}
"""The networks that files can name. Each keeps its constructor's arguments in `options`."""

KINDS: tuple[Trained, ...] = ("scalar", "per-class", "full")
"""The kinds of a CRF's weights, by their number of axes."""


@dataclass(frozen=True)
class Model:
    """A segmenter ready to use (evaluation mode, float32, on the CPU), its classes, and notes such as a model card."""

    segmenter: Segmenter
    classes: ClassSet
    notes: dict[str, str] = field(default_factory=dict)


def save_model(
    path: Path | str,
    segmenter: Segmenter,
    classes: ClassSet,
    *,
    half: bool = False,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a segmenter with one of the package's networks; the file appears once it is complete.

    Args:
        half: Write the network's kernels as float16; normalisation and the CRF stay float32.
        notes: What else is worth knowing about the model: data, licence, metrics.
    Raises: ValueError: if the network is not one of `NETWORKS`, or does not fit these classes.
    """
    network = segmenter.network
    name = type(network).__name__
    if NETWORKS.get(name) is not type(network):
        raise ValueError(
            f"cannot save a {name}: model files hold {', '.join(NETWORKS)}; keep other networks with torch.save"
        )
    for part, module in ((name, network), ("its CRF-RNN", segmenter.crf)):
        if module is not None and not _fits(module.num_classes, classes):
            raise ValueError(
                f"{part} has {module.num_classes} classes, but {classes.num_classes} class names are given"
            )
    description = {
        "format": FORMAT,
        "network": name,
        "options": network.options,
        "crf": None if segmenter.crf is None else crf_options(segmenter.crf),
        "mean": None if segmenter.mean is None else segmenter.mean.tolist(),
        "std": None if segmenter.std is None else segmenter.std.tolist(),
        "classes": classes.names,
        "palette": classes.palette.tolist(),
        "notes": dict(notes or {}),
    }
    tensors = {key: _stored(key, tensor, half) for key, tensor in segmenter.state_dict().items()}
    content = safetensors.torch.save(tensors, {HEADER: json.dumps(description)})
    with replacing(file_path(path, "path")) as handle:
        handle.write(content)


def load_model(path: Path | str | None = None) -> Model:
    """Read what `save_model` wrote.

    Args:
        path: None reads the model that comes with the package.
    Raises: ValueError: if the file is missing, damaged, not such a file, or does not fit its own description.
    """
    if path is not None:
        return _read(file_path(path, "path"))
    resource = files("crfrnn.models").joinpath("builtin", "model.safetensors")
    if not resource.is_file():
        raise ValueError("this installation comes without a built-in model: name a model file, or train one")
    with as_file(resource) as builtin:
        return _read(builtin)


def crf_options(crf: CrfRnn) -> dict[str, Any]:
    """What a model file stores about a layer, apart from its weights."""
    kinds = [getattr(crf, f"{name}_ker_weights").ndim for name in crf.crf.names]
    return {
        "num_classes": crf.num_classes,
        "crf": encoded(crf.crf),
        "weights": KINDS[max(kinds, default=0)],
        "compatibility": KINDS[crf.compatibility_matrix.ndim],
        "learn_theta": len(crf.log_thetas) > 0,
    }


def crf_from(options: Mapping[str, Any]) -> CrfRnn:
    """A layer from `crf_options`, or from the arguments of `CrfRnn` that older files hold."""
    given = dict(options)
    if "crf" in given:
        given["crf"] = decoded(given["crf"])
    return CrfRnn(**given)


def copy_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a module, all or none.

    Args:
        source: Where they are from, for messages.
    Raises: ValueError: naming the first weight that is missing, left over or of another shape.
    """
    expected = module.state_dict()
    for key, tensor in expected.items():
        if key not in state:
            raise ValueError(f"{source} has no {key}, which {type(module).__name__} needs")
        if state[key].shape != tensor.shape:
            raise ValueError(
                f"{source} holds {key} of shape {tuple(state[key].shape)}; "
                f"{type(module).__name__} expects {tuple(tensor.shape)}"
            )
    for key in state:
        if key not in expected:
            raise ValueError(f"{source} holds {key}, which {type(module).__name__} does not have")
    # In the order and with the versions of the module's own state: nothing has to be guessed from the numbers.
    expected.update(state)
    module.load_state_dict(expected)


def _stored(key: str, tensor: Tensor, half: bool) -> Tensor:
    kept = tensor.detach().cpu().contiguous()
    if not (half and kept.ndim > 1 and key.startswith("network.")):
        return kept
    halved = kept.half()
    if not halved.isfinite().all():
        raise ValueError(f"{key} holds values beyond the range of float16; save without half=True")
    return halved


def _fits(channels: object, classes: ClassSet) -> bool:
    """Whether so many logits tell the classes apart: one for each, or that of the second of two."""
    return channels == classes.num_classes or (channels == 1 and classes.num_classes == 2)


def _read(path: Path) -> Model:
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dictionary)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete model file: {error}") from error
    if header is None:
        raise ValueError(f"{path} holds weights, but was not written by crfrnn: use `crfrnn convert` or `crfrnn train`")
    try:
        segmenter, classes, notes = _built(json.loads(header))
    except KeyError as error:
        raise ValueError(f"{path} does not describe a model: its header has no {error}") from error
    except Exception as error:  # a header may hold anything
        raise ValueError(f"{path} does not describe a model: {error}") from error
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite numbers in {key}: it is damaged, or its training diverged")
    copy_state(segmenter, state, str(path))
    return Model(segmenter.eval(), classes, notes)


def _built(description: dict[str, Any]) -> tuple[Segmenter, ClassSet, dict[str, str]]:
    """What a header describes, with weights still to be loaded."""
    if not isinstance(description, dict):
        raise ValueError(f"its header is a {type(description).__name__}; expected an object")
    if description["format"] != FORMAT:
        raise ValueError(f"it has format {description['format']}, this version reads {FORMAT}: update crfrnn")
    if description["network"] not in NETWORKS:
        raise ValueError(f"network {description['network']!r} is unknown; this version knows {', '.join(NETWORKS)}")
    names, notes = description["classes"], description["notes"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes is a {type(names).__name__}; expected a list of names")
    if not isinstance(notes, dict):
        raise ValueError(f"notes is a {type(notes).__name__}; expected texts by name")
    classes = ClassSet(tuple(names), np.array(description["palette"], np.uint8))
    for part in ("options", "crf"):  # before anything of that size is made
        given = (description[part] or {}).get("num_classes", classes.num_classes)
        if not _fits(given, classes):
            raise ValueError(f"{part} has num_classes={given!r}, but there are {classes.num_classes} class names")
    crf = None if description["crf"] is None else crf_from(description["crf"])
    network = NETWORKS[description["network"]](**description["options"])
    if crf is not None and crf.num_classes != network.num_classes:
        raise ValueError(f"its network has {network.num_classes} classes and its CRF-RNN {crf.num_classes}")
    segmenter = Segmenter(network, crf, mean=description["mean"], std=description["std"])
    return segmenter, classes, {str(name): str(note) for name, note in notes.items()}
