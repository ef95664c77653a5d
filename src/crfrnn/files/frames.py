"""Frames of videos and of folders, in the order of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.files.replacement import replacing
from crfrnn.memory import require_memory

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif")
FORMATS = {".mkv": "matroska", ".m4v": "mp4"}
"""FFmpeg's names of formats that are not called like their suffix."""
CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}
"""FFmpeg's names of codecs; H.264 for all others."""
RATE = Fraction(25)


@dataclass(frozen=True)
class Clip:
    """What frames are called, and how many there are in a second."""

    names: tuple[str, ...]
    rate: Fraction = RATE


def av_module() -> Any:
    """PyAV, or an ImportError that names the extra."""
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV, which is not installed: pip install 'crfrnn[video]'") from error
    return av


def read_video(path: Path) -> tuple[NDArray[np.uint8], Clip]:
    """All frames (T, H, W, 3) of a video, RGB, and their names, which are numbers.

    Raises:
        ValueError: if it cannot be read, or holds no frames.
        MemoryError: if there is not enough memory for all of them.
    """
    av = av_module()
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it holds no frames")
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or RATE)
            pixels = 3 * stream.width * stream.height
            if stream.frames:
                require_memory(2 * pixels * stream.frames, f"reading {stream.frames} frames of {path}")
            for frame in container.decode(stream):
                if len(frames) % 64 == 0:
                    require_memory(2 * pixels * 64, f"reading more than {len(frames)} frames of {path}")
                frames.append(frame.to_ndarray(format="rgb24"))
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise more kinds than PyAV documents
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path} as a video: {reason}") from error
    if not frames:
        raise ValueError(f"cannot read {path} as a video: it holds no frames")
    return np.stack(frames), Clip(tuple(f"{number:06}" for number in range(len(frames))), rate)


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
