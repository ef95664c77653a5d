"""Which scores and images of two folders belong together, by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crfrnn.cli.parser import meant
from crfrnn.cli.scores import INPUT_SUFFIXES
from crfrnn.files.frames import frame_order
from crfrnn.files.photos import ARRAY_SUFFIXES, IMAGE_SUFFIXES, NIFTI_SUFFIXES, stem_of, suffix_of
from crfrnn.files.places import Place, names_in, real_place

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
PROPERTIES = ".pkl"
"""What nnU-Net says about probabilities is in a file with this ending."""
PHOTO_ENDING = re.compile(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
"""The suffix of a photo before another one, as in photo.jpg.npy."""


MOST_HINTED = 1000
"""A folder of more files is not searched for a name like one that is missing."""


@dataclass(frozen=True, slots=True)
class Case:
    """Names of files that seem to belong together.

    Attributes:
        name: That of the image.
        scores: Files of scores; more than one is a mistake.
        images: The image, or the files of its channels in order.
        problem: Why they cannot be refined; "" if they can.
        notes: What is worth telling of how they were found.
        beside: Files that say more about the scores, in their folder.
    """

    name: str
    scores: tuple[str, ...]
    images: tuple[str, ...]
    problem: str = ""
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """What belongs together in two folders.

    Attributes:
        cases: Each by its name; one for every file of scores.
        left_over: How many images no scores belong to.
    """

    cases: Mapping[str, Case]
    left_over: int


def paired(scores: Place, images: Place) -> Pairing:
    """What belongs together in two folders, or in one that holds both. Each is listed once.

    A file of scores belongs to the image of its name, or of its name without words such as "_mask", "_mask2" or
    "mask_"; the name of the image may have such words too, or number its channels as nnU-Net does. A case is called by
    its image; where several files belong to one, as `a_mask1` and `a_cat_mask` to `a`, each is a case that is called
    by its own name.

    Raises: ValueError: if there are no scores.
    """
    inside = sorted(names_in(scores), key=frame_order)
    by_stem = names_by_stem(inside)
    properties = {name for name in inside if name.endswith(PROPERTIES)}
    together = real_place(scores) == real_place(images)
    every = by_stem if together else names_by_stem(sorted(names_in(images), key=frame_order))
    found: Mapping[str, list[str]] = every
    if together:
        by_stem, found = _told_apart(by_stem)
    if not by_stem:
        raise ValueError(f"{scores} holds no scores ({', '.join(ARRAY_SUFFIXES + NIFTI_SUFFIXES)}) and no label images")
    bare, folders = _without_words(found), (scores, images)
    stems: dict[str, list[str]] = {}
    for stem in by_stem:
        stems.setdefault(_image_of(stem, found, bare) or stem, []).append(stem)
    cases: dict[str, Case] = {}
    for name, alike in stems.items():
        for stem in alike:
            case = _case(name, _of_nnunet(by_stem[stem], properties), found.get(name) or bare.get(name, []), folders)
            if not case.images and len(found) <= MOST_HINTED:
                case = replace(case, problem=case.problem + meant(name, list(found)))
            if name not in _shorter(stem, SCORE_WORDS):
                case = replace(case, notes=(BEGINNING,))
            cases[name if len(alike) == 1 else stem] = case
    used = {name for case in cases.values() for name in (*(case.scores if together else ()), *case.images)}
    left_over = sum(used.isdisjoint(files) for files in every.values())
    return Pairing(_with_all_channels(cases), left_over)


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The visible files of a folder that can be read, by name without suffix, 2 before 10."""
    found = names_by_stem(sorted(names_in(folder), key=frame_order))
    return {stem: [folder / name for name in names] for stem, names in found.items()}


def names_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of files that can be read, by themselves without suffix."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if suffix_of(name) in INPUT_SUFFIXES:
            by_stem.setdefault(stem_of(name), []).append(name)
    return by_stem


def _image_of(stem: str, found: Mapping[str, Any], bare: Mapping[str, Any], other: bool = False) -> str | None:
    """The name of the image that a file of scores belongs to; None if there is none.

    What is called after a thing in the image, as `a_cat_mask` is, belongs to the one whose name it begins with.

    Args:
        other: Whether it must be found under another name than its own.
    """
    names = list(_shorter(stem, SCORE_WORDS))
    for name in names:
        if (name in found and not (other and name == stem)) or name in bare:
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


def _without_words(by_stem: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The files by name without words of images, or without the number of a channel."""
    bare: dict[str, list[str]] = {}
    for stem, files in by_stem.items():
        for shorter in {*_shorter(stem, IMAGE_WORDS), CHANNEL_ENDING.sub("", stem)} - {stem}:
            bare.setdefault(shorter, []).extend(files)
    return bare


def _told_apart(by_stem: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Scores and images of one folder: arrays are scores, and so are files named like another but for their words."""
    scores: dict[str, list[str]] = {}
    images: dict[str, list[str]] = {}
    bare = _without_words(by_stem)
    for stem, files in by_stem.items():
        named = _image_of(stem, by_stem, bare, other=True) not in (None, stem)
        for name in files:
            kind = scores if named or suffix_of(name) in ARRAY_SUFFIXES else images
            kind.setdefault(stem, []).append(name)
    return scores, images


def _of_nnunet(files: list[str], properties: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The probabilities alone, if nnU-Net wrote them, and what lies beside: labels, and a .pkl of the same name."""
    described = {name: stem_of(name) + PROPERTIES for name in files if suffix_of(name) == ".npz"} if properties else {}
    archives = {name: beside for name, beside in described.items() if beside in properties}
    return (tuple(archives), tuple(archives.values())) if archives else (tuple(files), ())


def _with_all_channels(cases: dict[str, Case]) -> dict[str, Case]:
    """The same cases; those with fewer channels than others have a problem."""
    channels = {name: len(case.images) for name, case in cases.items() if _is_numbered(case.name, case.images)}
    most = max(channels.values(), default=0)
    few = {name: count for name, count in channels.items() if count < most and not cases[name].problem}
    missing = {name: f"{name} has {count} of the {most} channels that others have" for name, count in few.items()}
    return cases | {name: replace(cases[name], problem=problem) for name, problem in missing.items()}


def _is_numbered(name: str, images: Sequence[str]) -> bool:
    """Whether images are the channels of one, by their names."""
    stems = list(map(stem_of, images))
    return bool(stems) and all(CHANNEL_ENDING.search(stem) and CHANNEL_ENDING.sub("", stem) == name for stem in stems)


def _case(
    name: str, scores: tuple[tuple[str, ...], tuple[str, ...]], images: list[str], folders: tuple[Place, Place]
) -> Case:
    """A case with what is wrong with it; for scores see `_of_nnunet`."""
    problem = ""
    (chosen, beside), (folder, image_folder) = scores, folders
    stems = list(map(stem_of, images))
    numbered = _is_numbered(name, images)
    if len(chosen) > 1:
        problem = _share_a_name(chosen, folder)
    elif not images:
        problem = f"there is no photo named {name} in {image_folder}"
    elif len(images) > 1 and not (numbered and len(set(stems)) == len(images)):
        problem = _share_a_name(images, image_folder)
    elif numbered and [int(stem[-4:]) for stem in stems] != list(range(len(stems))):
        problem = f"channels of {name} are missing: there are {', '.join(images)} alone"
    return Case(name, chosen, tuple(images), problem, beside=beside)


def _share_a_name(names: Iterable[str], folder: Place) -> str:
    return f"{' and '.join(names)} in {folder} share a name; keep one"
