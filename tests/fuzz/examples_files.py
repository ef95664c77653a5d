"""Strategies of damaged files: a command, a sample, what happens to it, and how the file is called."""

from typing import Any

from hypothesis import strategies as st
from samples import HARMFUL, SAMPLES, suffix
from strategies import usually

READ_BY: dict[str, tuple[str, ...]] = {
    "scores": (
        "scores.npy",
        "scores.npz",
        "scores.safetensors",
        "scores.pt",
        "old.pt",
        "labels.png",
        "mask.png",
        "pages.tif",
    ),
    "probabilities": ("probabilities.npz", "mask.png"),
    "labels": ("labels.png", "mask.png"),
    "tiles": ("scores.npy", "labels.png", "pages.tif", "scores.npz"),
    "photo": ("photo.png", "photo.jpg", "photo.bmp", "photo.webp", "photo.tif", "turned.jpg", "deep.tif", "scores.npy"),
    "tiled_photo": ("photo.png", "deep.tif", "photo.tif", "scores.npy"),
    "volume": ("labels.nii.gz",),
    "scan": ("scan.nii", "scan.nii.gz"),
    "annotations": ("coco.json",),
    "parameters": ("parameters.json", "crf.json"),
    "clip": ("clip.mp4", "clip.gif"),
    "accuracy": ("photo.png", "photo.jpg"),
    "segment": ("photo.jpg", "turned.jpg", "photo.png"),
    "model": ("model.safetensors",),
    "evaluate": ("model.safetensors",),
    "settings": ("settings.yaml",),
    "weights": ("weights.h5", "weights.pth"),
    "classes": ("names.txt",),
}
"""The samples that each command reads."""

places = st.one_of(st.integers(0, 120), st.integers(-60, -1), st.integers(0, 10**6))
numbers = st.lists(st.sampled_from([0, 1, 127, 128, 255]), min_size=1, max_size=8)
json_values = st.one_of(
    st.sampled_from(
        ["gone", None, True, -1, 0, 1e300, 10**30, 2**31, 10**6, "", "x", [], {}, [[]], [1e9] * 4, "o" * 30, 2.5]
    ),
    st.integers(-5, 300),
)
HEADERS = [
    ("<f4", "|O"),
    ("<f4", "<f8"),
    ("<f4", ">c8"),
    ("(3, 8, 10)", "(999999999, 9, 9)"),
    ("(3, 8, 10)", "(-3, 8, 10)"),
    ("(3, 8, 10)", "(240,)"),
    ("(3, 8, 10)", "()"),
    ("False", "True"),
    ("'shape'", "'shade'"),
    ("{", "["),
]
bytewise = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(0, 7)),
    st.tuples(st.just("overwrite"), places, numbers),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("drop"), places, st.integers(1, 40)),
    st.tuples(st.just("insert"), places, numbers),
    st.tuples(st.just("append"), numbers),
    st.tuples(st.just("lines"), st.just(0)),
).map(list)
json_edits = st.tuples(st.just("json"), st.lists(st.integers(0, 12), min_size=1, max_size=6), json_values).map(list)
header_edits = st.sampled_from(HEADERS).map(lambda each: ["header", *each])
becoming = st.sampled_from([*SAMPLES, *HARMFUL]).map(lambda other: ["become", other])
inside = st.one_of(bytewise, header_edits).map(lambda damage: ["inside", *damage])


@st.composite
def command_on_file(draw: Any, command: str) -> dict[str, Any]:
    """A damaged file for a command; now and then a whole one, or one of another kind."""
    name = draw(st.sampled_from(READ_BY[command]))
    kinds = {"bytes": bytewise, "becoming": becoming}
    if name.endswith((".json", ".safetensors")):
        kinds["json"] = json_edits
    if name.endswith((".npz", ".npy", ".pt", ".gz")):
        kinds |= {"inside": inside}
    if name.endswith(".npy"):
        kinds["header"] = header_edits
    damages = draw(st.lists(st.sampled_from(sorted(kinds)).flatmap(kinds.__getitem__), max_size=3))
    endings = sorted({suffix(each) for each in SAMPLES})
    return {"command": command, "sample": name, "damages": damages, "suffix": draw(usually(suffix(name), endings))}


EXAMPLES = {f"file_{command}": command_on_file(command) for command in READ_BY}
