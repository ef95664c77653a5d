"""`crfrnn refine` of masks in the JSON of COCO: each mask by itself, everything else in the file as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.changes import change_of
from crfrnn.cli.failures import described
from crfrnn.cli.inputs import Pair
from crfrnn.cli.printing import complain, say
from crfrnn.cli.refinement import Refinement
from crfrnn.cli.usage import UsageError, counted
from crfrnn.files.coco import SUFFIX, CocoFile, write_coco
from crfrnn.files.photos import IMAGE_SUFFIXES, oriented_picture, suffix_of
from crfrnn.files.places import real_place
from crfrnn.files.progress import progress
from crfrnn.interrupts import raise_asked

SHOWN = 5


def refine_coco(refinement: Refinement, scores: Path, images: Sequence[Path], output: Path) -> int:
    """Refine the masks of the photos given, or of a folder of photos, and write the file anew. Returns the exit status.

    Masks of other photos stay as they are.
    """
    if suffix_of(output) != SUFFIX:
        raise UsageError(f"{output} is to hold masks of COCO; end its name in {SUFFIX}")
    if real_place(output) == real_place(scores):
        raise UsageError(f"{output} is one of the inputs; name another file to write")
    if refinement.tiling is not None:
        raise UsageError("masks of COCO are refined whole: leave out --tile, --memory and --overlap")
    file = CocoFile.read(scores)
    masks: dict[int, NDArray[np.bool_]] = {}
    failures, gone = [], []
    todo = photos_of(file, images)
    for photo in progress(todo, "refine"):
        try:
            numbers = file.of(photo)
            image, _ = oriented_picture(
                photo, "as stored" if refinement.reading.as_stored else file.size_of(numbers[0])
            )
            for number in numbers:
                mask = file.mask(number, (image.shape[0], image.shape[1]))
                pair = Pair(mask.astype(np.uint8), "labels", image)
                labels = refinement.labels(pair) if mask.any() else pair.scores
                masks[number] = labels == 1
                if 1 in change_of(pair, labels, 2).vanished:
                    gone.append(number)
        except Exception as error:
            raise_asked(error)
            failures.append(described(error, [photo]))
    if masks:
        write_coco(output, file.content, masks)
    if gone:
        names = ", ".join(str(file.annotations[number].get("id", number)) for number in gone[:SHOWN])
        more = ", …" if len(gone) > SHOWN else ""
        complain("crfrnn refine", "warning", f"{counted(len(gone), 'mask')} vanished: annotation {names}{more}")
    for failure in failures:
        complain("failed", failure)
    if not masks and failures:
        return 1
    kept = len(file.annotations) - len(masks)
    done = len(todo) - len(failures)
    say(f"{counted(len(masks), 'mask')} of {counted(done, 'photo')} refined, {kept} left as they are", output)
    return 1 if failures else 0


def photos_of(file: CocoFile, images: Sequence[Path]) -> list[Path]:
    """The photos given, and of folders those that the file has masks of, each mask in one photo.

    Raises: ValueError: if a folder has none of them, there is no such file, or two photos have the same masks.
    """
    photos: list[Path] = []
    for path in images:
        if not path.exists():
            raise ValueError(f"there is no file or folder {path}")
        if not path.is_dir():
            photos.append(path)
            continue
        inside = [each for each in sorted(path.iterdir()) if suffix_of(each) in IMAGE_SUFFIXES]
        known = [each for each in inside if file.images_of(each)]
        if not known:
            raise ValueError(f"{path} holds none of the photos that {file.path} has masks of")
        photos += known
    return _told_apart(file, photos)


def _told_apart(file: CocoFile, photos: Sequence[Path]) -> list[Path]:
    """The photos, of those that may be the same image the one of its name. A ValueError if that leaves several."""
    named = {Path(str(image.get("file_name"))).name for image in file.images}
    images = list(file.by_image())
    only = tuple(images) if len(images) == 1 and not file.images else ()
    alike: dict[Any, list[Path]] = {}
    for photo in dict.fromkeys(photos):
        alike.setdefault(tuple(file.images_of(photo)) or only or photo, []).append(photo)
    chosen = []
    for group in alike.values():
        exact = [photo for photo in group if photo.name in named] if len(group) > 1 else group
        if len(exact) != 1:
            raise ValueError(f"{' and '.join(map(str, group))} have the same masks in {file.path}: keep one of them")
        chosen += exact
    return chosen
