"""Which scores and images of two folders belong together, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crfrnn.cli.scores import INPUT_SUFFIXES
from crfrnn.files.photos import ARRAY_SUFFIXES, NIFTI_SUFFIXES, stem_of, suffix_of

SCORE_ENDINGS = re.compile(
    r"[-_. ](masks?|scores?|logits?|prob(s|abilit(y|ies))?|softmax|label(s|ids)?|gt|seg(mentation)?|pred(iction)?s?)$",
    re.IGNORECASE,
)
"""What names of scores and masks end in beside the name of their photo."""
IMAGE_ENDINGS = re.compile(r"[-_. ](image|img|photo|sat|rgb|leftimg8bit)$", re.IGNORECASE)
"""What names of photos end in."""
CHANNEL_ENDING = re.compile(r"_\d{4}$")
"""nnU-Net's number of a channel, which each have a file of their own: case_0000, case_0001."""


@dataclass(frozen=True)
class Case:
    """Files that seem to belong together.

    Attributes:
        scores: Files of scores; more than one is a mistake.
        images: The image, or the files of its channels in order.
        problem: Why they cannot be refined; "" if they can.
    """

    scores: tuple[Path, ...]
    images: tuple[Path, ...]
    problem: str = ""


def paired(scores: Path, images: Path) -> dict[str, Case]:
    """The cases of two folders by name, one for every file of scores.

    A file of scores belongs to the image of its name, or of its name without an ending such as "_mask"; the image may
    have an ending too, or number its channels as nnU-Net does.

    Raises: ValueError: if there are no scores.
    """
    by_stem = files_by_stem(scores)
    if not by_stem:
        raise ValueError(f"{scores} holds no scores ({', '.join(ARRAY_SUFFIXES + NIFTI_SUFFIXES)}) and no label images")
    found = files_by_stem(images)
    bare = _without_endings(found)
    cases: dict[str, Case] = {}
    for stem, files in by_stem.items():
        name = next((each for each in (stem, SCORE_ENDINGS.sub("", stem)) if each in found or each in bare), stem)
        before = cases[name].scores if name in cases else ()
        cases[name] = _case(name, (*before, *files), found.get(name) or bare.get(name, []), scores, images)
    return cases


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The visible files of a folder that can be read, by name without suffix."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if suffix_of(path) in INPUT_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            by_stem.setdefault(stem_of(path), []).append(path)
    return by_stem


def _without_endings(by_stem: Mapping[str, Iterable[Path]]) -> dict[str, list[Path]]:
    """The files by name without an ending of images or of channels."""
    bare: dict[str, list[Path]] = {}
    for stem, files in by_stem.items():
        for ending in (IMAGE_ENDINGS, CHANNEL_ENDING):
            if ending.search(stem):
                bare.setdefault(ending.sub("", stem), []).extend(files)
    return bare


def _case(name: str, scores: tuple[Path, ...], images: list[Path], folder: Path, image_folder: Path) -> Case:
    problem = ""
    numbered = len(images) > 1 and all(CHANNEL_ENDING.search(stem_of(path)) for path in images)
    distinct = len({stem_of(path) for path in images}) == len(images)
    if len(scores) > 1:
        problem = _share_a_name(scores, folder)
    elif not images:
        problem = f"there is no photo named {name} in {image_folder}"
    elif len(images) > 1 and not (numbered and distinct):
        problem = _share_a_name(images, image_folder)
    return Case(scores, tuple(images), problem)


def _share_a_name(paths: Iterable[Path], folder: Path) -> str:
    return f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one"
