"""Which scores and images of two folders belong together, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crfrnn.cli.parser import meant
from crfrnn.cli.scores import INPUT_SUFFIXES
from crfrnn.cli.usage import real_path
from crfrnn.files.frames import frame_order
from crfrnn.files.photos import ARRAY_SUFFIXES, IMAGE_SUFFIXES, NIFTI_SUFFIXES, stem_of, suffix_of

SCORE_WORDS = (
    r"(masks?|scores?|logits?|prob(s|abilit(y|ies))?|softmax|label(s|ids|trainids)?|gt(fine|coarse)?|seg(mentation)?|"
    r"pred(iction)?s?|matte|bin(ary)?)"
)
"""What names of scores and masks have in them beside the name of their photo."""
IMAGE_WORDS = r"(image|img|photo|sat|rgb|leftimg8bit)"
CHANNEL_ENDING = re.compile(r"_\d{4}$")
"""nnU-Net's number of a channel, which each have a file of their own: case_0000, case_0001."""
THING = re.compile(r"[-_. ][^\W\d][^-_. ]*$")
"""A word at the end of a name, which is no number."""
BEGINNING = "taken for the photo that the name begins with, as a_cat_mask for a"
PHOTO_ENDING = re.compile(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
"""The suffix of a photo before another one, as in photo.jpg.npy."""


@dataclass(frozen=True)
class Case:
    """Files that seem to belong together.

    Attributes:
        name: That of the image.
        scores: Files of scores; more than one is a mistake.
        images: The image, or the files of its channels in order.
        problem: Why they cannot be refined; "" if they can.
        notes: What is worth telling of how they were found.
    """

    name: str
    scores: tuple[Path, ...]
    images: tuple[Path, ...]
    problem: str = ""
    notes: tuple[str, ...] = ()


def paired(scores: Path, images: Path) -> dict[str, Case]:
    """The cases of two folders by name, one for every file of scores, or of one folder that holds both.

    A file of scores belongs to the image of its name, or of its name without words such as "_mask", "_mask2" or
    "mask_"; the name of the image may have such words too, or number its channels as nnU-Net does. A case is called by
    its image; where several files belong to one, as `a_mask1` and `a_cat_mask` to `a`, each is a case that is called
    by its own name.

    Raises: ValueError: if there are no scores.
    """
    by_stem, found = files_by_stem(scores), files_by_stem(images)
    if real_path(scores) == real_path(images):
        by_stem, found = _told_apart(by_stem)
    if not by_stem:
        raise ValueError(f"{scores} holds no scores ({', '.join(ARRAY_SUFFIXES + NIFTI_SUFFIXES)}) and no label images")
    bare = _without_words(found)
    stems: dict[str, list[str]] = {}
    for stem in by_stem:
        stems.setdefault(_image_of(stem, found, bare) or stem, []).append(stem)
    cases: dict[str, Case] = {}
    for name, alike in stems.items():
        for stem in alike:
            case = _case(name, tuple(_of_nnunet(by_stem[stem])), found.get(name) or bare.get(name, []), scores, images)
            case = replace(case, problem=case.problem + meant(name, list(found))) if not case.images else case
            notes = () if name in _shorter(stem, SCORE_WORDS) else (BEGINNING,)
            cases[name if len(alike) == 1 else stem] = replace(case, notes=notes)
    return _with_all_channels(cases)


def left_over(cases: Mapping[str, Case], images: Path) -> int:
    """How many images of a folder no scores belong to."""
    used = {path for case in cases.values() for path in (*case.scores, *case.images)}
    return sum(not used.intersection(files) for files in files_by_stem(images).values())


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The visible files of a folder that can be read, by name without suffix, 2 before 10."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: frame_order(path.name)):
        if suffix_of(path) in INPUT_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            by_stem.setdefault(stem_of(path), []).append(path)
    return by_stem


def _image_of(stem: str, found: Mapping[str, Any], bare: Mapping[str, Any]) -> str | None:
    """The name of the image that a file of scores belongs to; None if there is none.

    What is called after a thing in the image, as `a_cat_mask` is, belongs to the one whose name it begins with.
    """
    names = list(_shorter(stem, SCORE_WORDS))
    for name in names:
        if name in found or name in bare:
            return name
    for name in names[1:]:
        while (thing := THING.search(name)) is not None:
            name = name[: thing.start()]
            if name in found or name in bare:
                return name
    return None


def _shorter(stem: str, words: str) -> Iterator[str]:
    """A name, and what is left of it without the words at its end, one after the other, and at its beginning."""
    number = r"([-_. ]?\d+)?"
    ending, beginning = (
        re.compile(each, re.IGNORECASE) for each in (rf"[-_. ]{words}{number}$", rf"^{words}{number}[-_. ]")
    )
    left = [stem]
    while (shorter := PHOTO_ENDING.sub("", ending.sub("", left[-1]))) not in ("", left[-1]):
        left.append(shorter)
    yield from left
    yield from (beginning.sub("", each) for each in left if beginning.search(each))


def _without_words(by_stem: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The files by name without words of images, or without the number of a channel."""
    bare: dict[str, list[Path]] = {}
    for stem, files in by_stem.items():
        for shorter in {*_shorter(stem, IMAGE_WORDS), CHANNEL_ENDING.sub("", stem)} - {stem}:
            bare.setdefault(shorter, []).extend(files)
    return bare


def _told_apart(by_stem: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Scores and images of one folder: arrays are scores, and so are files named like another but for their words."""
    scores: dict[str, list[Path]] = {}
    images: dict[str, list[Path]] = {}
    bare = _without_words(by_stem)
    for stem, files in by_stem.items():
        others = {each: paths for each, paths in by_stem.items() if each != stem}
        named = _image_of(stem, others, bare) not in (None, stem)
        for path in files:
            kind = scores if named or suffix_of(path) in ARRAY_SUFFIXES else images
            kind.setdefault(stem, []).append(path)
    return scores, images


def _of_nnunet(files: list[Path]) -> list[Path]:
    """The probabilities alone, if nnU-Net wrote them: it leaves labels and a .pkl of the same name beside them."""
    archives = [path for path in files if suffix_of(path) == ".npz" and path.with_suffix(".pkl").is_file()]
    return archives or files


def _with_all_channels(cases: dict[str, Case]) -> dict[str, Case]:
    """The same cases; those with fewer channels than others have a problem."""
    channels = {name: len(case.images) for name, case in cases.items() if _is_numbered(case.name, case.images)}
    most = max(channels.values(), default=0)
    few = {name: count for name, count in channels.items() if count < most and not cases[name].problem}
    missing = {name: f"{name} has {count} of the {most} channels that others have" for name, count in few.items()}
    return cases | {name: replace(cases[name], problem=problem) for name, problem in missing.items()}


def _is_numbered(name: str, images: Sequence[Path]) -> bool:
    """Whether images are the channels of one, by their names."""
    stems = [stem_of(path) for path in images]
    return bool(stems) and all(CHANNEL_ENDING.search(stem) and CHANNEL_ENDING.sub("", stem) == name for stem in stems)


def _case(name: str, scores: tuple[Path, ...], images: list[Path], folder: Path, image_folder: Path) -> Case:
    problem = ""
    stems = [stem_of(path) for path in images]
    numbered = _is_numbered(name, images)
    if len(scores) > 1:
        problem = _share_a_name(scores, folder)
    elif not images:
        problem = f"there is no photo named {name} in {image_folder}"
    elif len(images) > 1 and not (numbered and len(set(stems)) == len(images)):
        problem = _share_a_name(images, image_folder)
    elif numbered and [int(stem[-4:]) for stem in stems] != list(range(len(stems))):
        problem = f"channels of {name} are missing: there are {', '.join(path.name for path in images)} alone"
    return Case(name, scores, tuple(images), problem)


def _share_a_name(paths: Iterable[Path], folder: Path) -> str:
    return f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one"
