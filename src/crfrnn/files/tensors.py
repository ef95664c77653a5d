"""Tensors in the files of PyTorch and safetensors, as NumPy arrays."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TORCH_SUFFIXES = (".pt", ".pth")
SAFETENSORS = ".safetensors"


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name, in its order; a tensor alone has the name "".

    Only tensors, arrays, numbers and plain containers are read from .pt and .pth files: no code in them runs. Numbers
    in floating point of 16 bits and less become float32 in tensors.

    Raises:
        ValueError: if the file cannot be read, or holds no tensor.
        ImportError: if the library for the format is missing.
    """
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    found = _safetensors(path) if path.suffix.lower() == SAFETENSORS else _torch(path)
    if not found:
        raise ValueError(f"cannot read {path}: it holds no tensor")
    return found


def _torch(path: Path) -> dict[str, NDArray[Any]]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path} needs PyTorch, which is not installed: pip install 'crfrnn[torch]'") from error
    try:
        with torch.serialization.safe_globals(_array_parts()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise more kinds than PyTorch documents
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "GLOBAL" in str(error):
            reason = "it holds more than tensors; save the scores alone, by torch.save(torch.as_tensor(scores), path)"
        elif "Weights only" in str(error):
            reason = "it is damaged, or no file of torch.save"
        raise ValueError(f"cannot read {path} as tensors: {reason}") from error
    return {name: _array(tensor) for name, tensor in _named(content, (torch.Tensor, np.ndarray))}


def _array_parts() -> list[Any]:
    """What files of torch.save name to rebuild arrays of numbers, under old and new names of NumPy's modules."""
    dtypes = [np.dtype(code) for code in "?bhilqBHILQefd"]
    rebuilt = np.zeros(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    names = [(rebuilt, f"{module}._reconstruct") for module in modules]
    return [np.ndarray, np.dtype, *{type(dtype) for dtype in dtypes}, *names, codecs.encode]


def _safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(f"{path} needs safetensors, which is not installed: pip install safetensors") from error
    try:
        return dict(load_file(path))
    except TypeError:  # bfloat16, which NumPy does not know
        try:
            from safetensors.torch import load_file as load_tensors
        except ImportError as error:
            raise ImportError(
                f"{path} holds numbers that NumPy does not know; PyTorch reads them: pip install 'crfrnn[torch]'"
            ) from error
        return {name: _array(tensor) for name, tensor in load_tensors(path).items()}
    except Exception as error:  # as above
        raise ValueError(f"cannot read {path} as tensors: {error}") from error


def _named(content: Any, kind: tuple[type, ...], name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors and arrays in nested containers, with names such as "logits" or "outputs.0"."""
    if isinstance(content, kind):
        yield name, content
        return
    items: Any = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    for key, value in items:
        yield from _named(value, kind, f"{name}.{key}" if name else str(key))


def _array(tensor: Any) -> NDArray[Any]:
    """A tensor of any layout, device and type, whether or not it takes gradients; arrays as they are."""
    if isinstance(tensor, np.ndarray):
        return tensor
    dense = tensor.detach().cpu()
    dense = dense.to_dense() if dense.layout.__str__() != "torch.strided" else dense
    if dense.is_floating_point() and dense.dtype.itemsize <= 2:
        dense = dense.float()
    array: NDArray[Any] = np.asarray(dense.resolve_conj().resolve_neg())
    return array
