"""Frames of videos and of folders, in the order of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.files.replacement import replacing

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif")
FORMATS = {".mkv": "matroska", ".m4v": "mp4"}
"""FFmpeg's names of formats that are not called like their suffix."""
CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}
"""FFmpeg's names of codecs; H.264 for all others."""
RATE = Fraction(25)


def frame_order(name: str) -> list[tuple[int, str]]:
    """What sorts names by the numbers in them, 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]


def av_module() -> Any:
    """PyAV, or an ImportError that names the extra."""
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV, which is not installed: pip install 'crfrnn[video]'") from error
    return av


class Video:
    """The frames of a video: `video[number]` is (H, W, 3), RGB. They are decoded when asked for, forward in time.

    Attributes:
        count: How many frames there are; all are decoded once to count them.
        rate: Frames in a second.
    Raises: ValueError: if it cannot be read, or holds no frames.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"cannot read {path}: there is no such file")
        self.path, self.rate = path, RATE
        self.count = sum(1 for _ in self._decoded())
        if not self.count:
            raise ValueError(f"cannot read {path} as a video: it holds no frames")
        self._next, self._frames = 0, self._decoded()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        if number < self._next:
            self._next, self._frames = 0, self._decoded()
        for frame in self._frames:
            self._next += 1
            if self._next > number:
                pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
                return pixels
        raise IndexError(f"{self.path} has {self.count} frames, not {number + 1}")

    def _decoded(self) -> Iterator[Any]:
        av = av_module()
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError("it holds no frames")
                stream = container.streams.video[0]
                self.rate = Fraction(stream.average_rate or RATE)
                yield from container.decode(stream)
        except MemoryError:
            raise
        except Exception as error:  # damaged files raise more kinds than PyAV documents
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"cannot read {self.path} as a video: {reason}") from error


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], rate: Fraction) -> None:
    """Frames (H, W, 3), RGB, as a video in the format of the suffix; a column or row is repeated where it is odd."""
    av, suffix = av_module(), path.suffix.lower()
    with replacing(path) as handle, av.open(handle, "w", format=FORMATS.get(suffix, suffix[1:])) as container:
        stream = container.add_stream(CODECS.get(suffix, "libx264"), rate=rate)
        stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
        for number, frame in enumerate(frames):
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if number == 0:
                stream.height, stream.width = even.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        container.mux(stream.encode())
