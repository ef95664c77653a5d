"""The weights that were published with CRF-RNN: `crfrnn_keras_model.h5` and, for PyTorch, `crfasrnn_weights.pth`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.models.fcn import Fcn8s
from crfrnn.models.segmenter import Segmenter
from crfrnn.models.store import copy_state
from crfrnn.numbers import file_path

CRF_LAYER = "crfrnn"
COMPATIBILITY = "compatibility_matrix"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
KERAS_NAMES = {
    "score_fr": "score-fr",
    "score_pool3": "score-pool3",
    "score_pool4": "score-pool4",
    "upscore2": "score2",
    "upscore_pool4": "score4",
    "upscore8": "upsample",
}
"""Layers that have another name in the Keras file."""


def load_official(target: Fcn8s | Segmenter, path: Path | str) -> None:
    """Copy the official weights into an FCN-8s, or into a Segmenter with an FCN-8s and, if present, its CRF-RNN.

    The files' CRF-RNN has full matrices, theta 160, 3, 3 and 10 iterations, and computes the spatial kernel on the
    lattice. It saw BGR levels minus their mean. Only distances between colours matter, and those are the same in RGB.

    Args:
        target: Left as it is if anything does not fit.
        path: The Keras file or the PyTorch file; the content tells which of them it is.
    Raises:
        ImportError: if h5py, which reads Keras files, is not installed.
        TypeError: if target is something else.
        ValueError: if the file is damaged, or a layer is missing or of another shape; it names the layer.
    """
    network = target.network if isinstance(target, Segmenter) else target
    if not isinstance(network, Fcn8s):
        raise TypeError(f"official weights fit an Fcn8s or a Segmenter with one, not a {type(network).__name__}")
    path = file_path(path, "path")
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    state, crf_state = _keras(path, network) if _is_hdf5(path) else _pytorch(path)
    if isinstance(target, Segmenter):
        state = {f"network.{key}": tensor for key, tensor in state.items()}
        if target.crf is not None:
            state |= {f"crf.{key}": tensor for key, tensor in crf_state.items()}
    copy_state(target, state, str(path))


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def _pytorch(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of the network and of the CRF-RNN. That port adds the compatibility, which we subtract."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever unpickling runs into
        # Their messages advise against weights_only, but it is what keeps a foreign file from running code.
        kind = type(error).__name__
        raise ValueError(f"{path} is neither an HDF5 file nor a complete PyTorch weight file ({kind})") from error
    state = content.items() if isinstance(content, Mapping) else [(None, None)]
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state):
        raise ValueError(f"{path} holds no dictionary of tensors; expected the state of the official CrfRnnNet")
    prefix = f"{CRF_LAYER}."
    network = {key: tensor for key, tensor in content.items() if not key.startswith(prefix)}
    crf = {key.removeprefix(prefix): tensor for key, tensor in content.items() if key.startswith(prefix)}
    if COMPATIBILITY in crf:
        crf[COMPATIBILITY] = -crf[COMPATIBILITY]
    return network, crf


def _keras(path: Path, network: Fcn8s) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of the network and of the CRF-RNN."""
    layers = _keras_layers(path)
    crf = {name: torch.from_numpy(array) for name, array in layers.pop(CRF_LAYER, {}).items()}
    state = {}
    for key, expected in network.state_dict().items():
        layer, part = key.split(".")
        layer = KERAS_NAMES.get(layer, layer)
        part = "kernel" if part == "weight" else part
        if part not in layers.get(layer, {}):
            raise ValueError(f"{path} has no {part} of layer {layer!r}; expected the weights of the official CRF-RNN")
        array = layers[layer].pop(part)
        shape = tuple(expected.permute(2, 3, 1, 0).shape if part == "kernel" else expected.shape)
        if array.shape != shape:
            raise ValueError(f"{path} holds a {part} of shape {array.shape} in layer {layer!r}; expected {shape}")
        # Kernels: (h, w, in, out) there and (out, in, h, w) here; transposed ones (h, w, out, in) and (in, out, h, w).
        state[key] = torch.from_numpy(array.transpose(3, 2, 0, 1) if part == "kernel" else array)
    for layer, parts in layers.items():
        for part in parts:
            raise ValueError(f"{path} holds a {part} of layer {layer!r}, which {type(network).__name__} does not have")
    return state, crf


def _keras_layers(path: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The arrays of each layer, by the last part of their names: kernel, bias, compatibility_matrix, …"""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "Keras files are read with h5py, which is not installed: pip install 'crfrnn[models]'"
        ) from error
    layers: dict[str, dict[str, NDArray[np.float32]]] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, part = name.partition("/")[0], name.rpartition("/")[2].partition(":")[0]
            layers.setdefault(layer, {})[part] = np.asarray(item, np.float32)

    try:
        with h5py.File(path, "r") as file:
            # A whole model keeps its weights in a group of that name; a file of weights alone has them at the top.
            file.get("model_weights", file).visititems(collect)
    except Exception as error:  # damaged files raise OSError, RuntimeError, KeyError and more
        raise ValueError(f"{path} is no complete HDF5 file: {error}") from error
    return layers
