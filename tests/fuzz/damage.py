"""Damage to files, described by plain values: what disks, networks, editors and strangers do to them."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from typing import Any

from samples import HARMFUL, SAMPLES


def damaged(name: str, damages: list[list[Any]]) -> bytes:
    """The bytes of a sample after some damages; each is a word and its numbers."""
    content = SAMPLES[name]()
    for word, *numbers in damages:
        content = _DAMAGES[word](content, *numbers)
    return content


def _flip(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


def _overwrite(content: bytes, place: int, numbers: list[int]) -> bytes:
    changed = bytearray(content)
    for offset, number in enumerate(numbers):
        if changed:
            changed[(place + offset) % len(changed)] = number
    return bytes(changed)


def _cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def _drop(content: bytes, place: int, length: int) -> bytes:
    place %= max(1, len(content))
    return content[:place] + content[place + length :]


def _insert(content: bytes, place: int, numbers: list[int]) -> bytes:
    place %= max(1, len(content))
    return content[:place] + bytes(numbers) + content[place:]


def _append(content: bytes, numbers: list[int]) -> bytes:
    return content + bytes(numbers) * 20


def _lines(content: bytes, _: int) -> bytes:
    """As text mode of FTP did."""
    return content.replace(b"\n", b"\r\n")


def _become(_: bytes, other: str) -> bytes:
    return HARMFUL[other]() if other in HARMFUL else SAMPLES[other]()


def _edit_json(content: bytes, path: list[int], value: Any) -> bytes:
    """Replace a value somewhere in JSON; that of safetensors is in front."""
    start, ending = 0, len(content)
    if content[8:9] == b"{":
        start, ending = 8, 8 + struct.unpack("<Q", content[:8])[0]
    try:
        whole = json.loads(content[start:ending])
    except (ValueError, RecursionError):
        return content
    text = json.dumps(_replaced(whole, path, value)).encode()
    return (struct.pack("<Q", len(text)) if start else b"") + text + content[ending:]


def _replaced(node: Any, path: list[int], value: Any) -> Any:
    if not path or not isinstance(node, dict | list) or not node:
        return value
    keys = list(node) if isinstance(node, dict) else range(len(node))
    chosen = keys[path[0] % len(keys)]
    if isinstance(node, dict) and node.get("crfrnn") and isinstance(node["crfrnn"], str):  # a description in a header
        return {**node, "crfrnn": json.dumps(_replaced(json.loads(node["crfrnn"]), path, value))}
    if value == "gone" and len(path) == 1:
        pairs = [(key, node[key]) for key in keys if key != chosen]
        return dict(pairs) if isinstance(node, dict) else [each for _, each in pairs]
    if isinstance(node, dict):
        if chosen == "__metadata__" and node[chosen].get("crfrnn"):
            inner = json.loads(node[chosen]["crfrnn"])
            return {**node, chosen: {"crfrnn": json.dumps(_replaced(inner, path[1:], value))}}
        return {**node, chosen: _replaced(node[chosen], path[1:], value)}
    return [_replaced(each, path[1:], value) if key == chosen else each for key, each in enumerate(node)]


def _edit_header(content: bytes, old: str, new: str) -> bytes:
    """Text in the header of an .npy file, whose length stays."""
    begin, end = content.find(old.encode()), content.find(b"\n")
    if begin < 0 or end < begin:
        return content
    header = content[:end].replace(old.encode(), new.encode(), 1)[:end].ljust(end)
    return header + content[end:]


def _inside(content: bytes, word: str, *numbers: Any) -> bytes:
    """Damage what a zip or gzip archive holds, and pack it again; the bytes, if it holds nothing whole."""
    try:
        return _repacked(content, word, *numbers)
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return _DAMAGES[word](content, *numbers)


def _repacked(content: bytes, word: str, *numbers: Any) -> bytes:
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(_DAMAGES[word](gzip.decompress(content), *numbers), mtime=0)
    if content[:2] != b"PK":
        return _DAMAGES[word](content, *numbers)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(packed, "w") as archive:
        for number, info in enumerate(given.infolist()):
            held = given.read(info)
            archive.writestr(info.filename, _DAMAGES[word](held, *numbers) if number == 0 else held)
    return packed.getvalue()


_DAMAGES: dict[str, Any] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "cut": _cut,
    "drop": _drop,
    "insert": _insert,
    "append": _append,
    "lines": _lines,
    "become": _become,
    "json": _edit_json,
    "header": _edit_header,
    "inside": _inside,
}
