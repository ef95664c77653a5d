"""Arrays as people make them, described by plain values: so an example can be sent to a process, saved and replayed.

A description has a `shape`, a `dtype` of NumPy with its byte order, a `fill`, some `specials` (a place and the name of
a number), a `layout` in memory and a `form`, which is what holds the numbers. `made` is what a user would pass on, and
`plain` the same numbers in the plainest array.
"""

from typing import Any

import numpy as np
from PIL import Image

TWINS = ("array", "read-only", "masked", "subclass", "list", "memory map")
"""Forms that have to give what the plain array gives, whatever that is."""

SPECIALS = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "-0": -0.0,
    "tiny": 1e-45,
    "subnormal": 1e-310,
    "1e5": 1e5,
    "1e20": 1e20,
    "1e38": 1e38,
    "-1e38": -1e38,
    "1e39": 1e39,
    "1e300": 1e300,
}
"""Numbers by name, besides "max" and "min", which are the ends of the dtype."""

ODD_VALUES: dict[str, Any] = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "10**400": 10**400,
    "-10**400": -(10**400),
    "2**63": 2**63,
    "2**31": 2**31,
    "1e39": 1e39,
    "1e300": 1e300,
    "1e-39": 1e-39,
    "5e-324": 5e-324,
    "True": True,
    "None": None,
    "text": "3",
    "empty text": "",
    "bytes": b"3",
    "complex": 3j,
    "object": object(),
    "a type": float,
    "a set": {3},
    "a dictionary": {"a": 3},
    "empty list": [],
    "ragged list": [[1.0], [1.0, 2.0]],
    "NumPy float": np.float32(3),
    "NumPy integer": np.int64(3),
    "NumPy unsigned": np.uint8(3),
    "NumPy text": np.str_("3"),
    "NumPy date": np.datetime64("2020-01-01"),
    "array of one": np.array([3.0]),
    "array of no axes": np.array(3.0),
    "empty array": np.zeros(0),
    "array of three axes": np.ones((1, 1, 1)),
    "array of text": np.array(["a"]),
    "NumPy bool": np.True_,
    "one for true": 1,
    "zero": 0,
    "minus one": -1,
    "fraction": 2.5,
}
"""What people pass by mistake, by name."""


def value(described: Any) -> Any:
    """An argument from its description: {"odd": name}, an array, lists and dictionaries of these, or itself."""
    if isinstance(described, dict):
        if "odd" in described:
            return ODD_VALUES[described["odd"]]
        if "dtype" in described and "fill" in described:
            return made(described)
        return {name: value(each) for name, each in described.items()}
    return [value(each) for each in described] if isinstance(described, list) else described


def plain(described: dict[str, Any]) -> np.ndarray:
    """The numbers alone: contiguous, in the byte order of the machine."""
    shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"]).newbyteorder("=")
    numbers = _filled(described["fill"], shape, dtype)
    with np.errstate(all="ignore"):
        array = numbers.astype(dtype) if dtype.kind in "biufc" else numbers.astype(np.float64).astype(dtype)
        for place, name in described.get("specials", ()):
            if array.size and dtype.kind in "iuf":
                array.flat[place % array.size] = _special(name, dtype)
    if described.get("layout") == "broadcast" and array.ndim and array.shape[-1]:
        array = np.ascontiguousarray(np.broadcast_to(array[..., :1], array.shape))
    return array


def made(described: dict[str, Any]) -> Any:
    """What a user passes on."""
    array = _laid_out(plain(described), described.get("layout", "C")).view()
    if np.dtype(described["dtype"]).byteorder == ">":
        array = array.astype(described["dtype"])
    return _formed(array, described.get("form", "array"))


def is_twin(described: dict[str, Any]) -> bool:
    """Whether the form has to give what the plain array gives."""
    return described.get("form", "array") in TWINS


def twin(described: dict[str, Any]) -> np.ndarray:
    """The plain array of a form: lists of numbers are read as NumPy reads them."""
    array = plain(described)
    return np.asarray(array.tolist()) if described.get("form") == "list" else array


def _filled(fill: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    kind, *how = fill
    if kind == "constant":
        return np.full(shape, how[0], np.float64)
    rng = np.random.default_rng(int(how[-1]))
    if kind == "normal":
        return _within(rng.normal(size=shape) * how[0], dtype)
    if kind == "uniform":
        return _within(rng.random(shape) * how[0], dtype)
    if kind == "levels":
        return rng.integers(0, max(1, int(how[0])), shape)
    if kind == "ramp":
        return _within(np.arange(np.prod(shape, dtype=np.int64)).reshape(shape) * how[0], dtype)
    if kind == "probabilities":
        numbers = rng.normal(size=shape) * how[0]
        if not numbers.size or not numbers.ndim:
            return numbers
        numbers = np.exp(numbers - numbers.max(axis=0))
        return numbers / numbers.sum(axis=0)
    raise KeyError(kind)


def _within(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cut off where integers end: the cast of larger numbers differs between machines."""
    if dtype.kind not in "iu":
        return numbers
    limits = np.iinfo(dtype)
    return np.clip(numbers, max(float(limits.min), -(2.0**62)), min(float(limits.max), 2.0**62))


def _special(name: str, dtype: np.dtype) -> Any:
    if name in ("max", "min"):
        limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        return limits.max if name == "max" else limits.min
    return SPECIALS[name] if dtype.kind == "f" else 0


def _laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    if not array.ndim or not array.size:
        return array
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "all reversed":
        backwards = tuple(slice(None, None, -1) for _ in array.shape)
        return np.ascontiguousarray(array[backwards])[backwards]
    if layout == "strided":
        larger = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
        view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if layout == "cropped":
        larger = np.zeros(tuple(n + 2 for n in array.shape), array.dtype)
        view = larger[tuple(slice(1, -1) for _ in array.shape)]
        view[...] = array
        return view
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "moved":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
    if layout == "broadcast":
        return np.broadcast_to(np.ascontiguousarray(array[..., :1]), array.shape)
    if layout == "unaligned" and array.dtype.kind in "biufc":
        room = bytearray(array.nbytes + 1)
        room[1:] = array.tobytes()
        return np.frombuffer(room, array.dtype, offset=1).reshape(array.shape)
    return array


class Subclass(np.ndarray):
    """As libraries that carry metadata have."""


def _formed(array: np.ndarray, form: str) -> Any:
    array = np.asarray(array)  # a number of NumPy, without axes
    if form == "read-only":
        view = array.copy() if array.base is None else array.view()
        view.flags.writeable = False
        return view
    if form == "list":
        return array.tolist()
    if form == "masked":
        return np.ma.masked_array(array)
    if form == "hiding":
        hidden = np.zeros(array.shape, bool)
        hidden.flat[: max(1, array.size // 3)] = True
        return np.ma.masked_array(array, hidden)
    if form == "subclass":
        return array.view(Subclass)
    if form in ("tensor", "learned tensor"):
        return _tensor(array, form == "learned tensor")
    if form == "picture":
        is_picture = array.dtype == np.uint8 and array.size and (array.ndim == 2 or array.shape[2:] in ((3,), (4,)))
        return Image.fromarray(np.ascontiguousarray(array)) if is_picture else array
    return array


def _tensor(array: np.ndarray, learned: bool) -> Any:
    import torch

    if array.dtype.newbyteorder("=") not in (
        np.float16,
        np.float32,
        np.float64,
        np.uint8,
        np.int16,
        np.int32,
        np.int64,
        bool,
    ):
        return array
    native = np.asarray(array.astype(array.dtype.newbyteorder("=")))  # astype keeps the order of axes in memory
    tensor = torch.from_numpy(native)
    return tensor.requires_grad_() if learned and tensor.is_floating_point() else tensor
