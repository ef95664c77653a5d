"""Masks in the JSON of COCO: annotations of a data set, or a list of results, with run lengths or polygons."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.files.replacement import replacing
from crfrnn.files.run_lengths import checked_polygons, mask_of_runs, size_of

SUFFIX = ".json"
SHOWN = 3
SHOWN_CHARACTERS = 60


def pycocotools_mask() -> Any:
    """pycocotools.mask, or an ImportError that names the extra."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "COCO's masks need pycocotools, which is not installed: pip install 'crfrnn[coco]'"
        ) from error
    return mask


@dataclass(frozen=True)
class CocoFile:
    """The content of a file.

    Attributes:
        path: The file.
        content: An object with "images" and "annotations", or a list of annotations, which results are.
    """

    path: Path
    content: Any

    @classmethod
    def read(cls, path: Path) -> CocoFile:
        """Raises ValueError if the file is missing or holds no annotations."""
        if not path.is_file():
            raise ValueError(f"cannot read {path}: there is no such file")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"cannot read {path}, it is no complete JSON: {error}") from error
        annotations = content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
            raise ValueError(
                f"{path} holds no annotations of COCO; expected an object with images and annotations, or a list of "
                'results such as {"image_id": 1, "category_id": 1, "segmentation": {"size": …, "counts": …}}'
            )
        _check_entries(path, content.get("images", []) if isinstance(content, dict) else [], annotations)
        return cls(path, content)

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        found: list[dict[str, Any]] = self.content["annotations"] if isinstance(self.content, dict) else self.content
        return found

    @property
    def images(self) -> list[dict[str, Any]]:
        """The images that the file describes."""
        found: Any = self.content.get("images", []) if isinstance(self.content, dict) else []
        return [each for each in found if isinstance(each, dict)]

    def by_image(self) -> dict[Any, list[int]]:
        """The numbers of annotations with a mask, by the id of their image."""
        found: dict[Any, list[int]] = defaultdict(list)
        for number, annotation in enumerate(self.annotations):
            if annotation.get("segmentation"):
                found[annotation.get("image_id")].append(number)
        return dict(found)

    def images_of(self, photo: Path) -> list[Any]:
        """The ids of images with masks that a photo may be, by what its name shares with theirs: path, name, or stem.

        Results name no files: an image is then found by its id, also with zeros in front as in COCO's file names.
        """
        named = {image.get("id"): Path(str(image["file_name"])) for image in self.images if "file_name" in image}
        names = {image: named.get(image, Path(str(image))) for image in self.by_image()}
        alike: tuple[Callable[[Path], bool], ...] = (
            lambda name: f"/{photo.as_posix()}".endswith(f"/{name.as_posix()}"),
            lambda name: name.name == photo.name,
            lambda name: name.stem in _names(photo.stem),
        )
        found = ([image for image, name in names.items() if same(name)] for same in alike)
        return next((images for images in found if images), [])

    def size_of(self, number: int) -> tuple[int, int] | None:
        """The size (H, W) that the file gives the photo of an annotation; None if it does not."""
        annotation = self.annotations[number]
        try:
            size = size_of(annotation["segmentation"])
        except ValueError as error:
            raise ValueError(f"{self.path}: annotation {annotation.get('id', number)}: {error}") from error
        if size is not None:
            return size
        for image in self.images:
            if image.get("id") == annotation.get("image_id") and "height" in image and "width" in image:
                return int(image["height"]), int(image["width"])
        return None

    def of(self, photo: Path) -> list[int]:
        """The numbers of a photo's annotations. Raises ValueError if it has none, or it is not clear which."""
        by_image, found = self.by_image(), self.images_of(photo)
        if len(found) == 1:
            return by_image[found[0]]
        if len(by_image) == 1 and not self.images:
            return next(iter(by_image.values()))
        names = {image.get("id"): str(image.get("file_name")) for image in self.images}
        listed = [names.get(image, str(image)) for image in found or by_image]
        shown = ", ".join(listed[:SHOWN]) + (", …" if len(listed) > SHOWN else "")
        if found:
            raise ValueError(f"{photo} may be any of {shown} in {self.path}: give it in a folder of the same name")
        raise ValueError(f"{self.path} has no masks of {photo.name}, only of {shown or 'no image'}")

    def mask(self, number: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask (H, W) of an annotation. Raises ValueError if it is damaged or of another size."""
        given = self.annotations[number]["segmentation"]
        where = f"{self.path}: annotation {self.annotations[number].get('id', number)}"
        declared = self.size_of(number) or size
        if declared != size:
            raise ValueError(f"{where} is {declared[1]}×{declared[0]} pixels, but its photo {size[1]}×{size[0]}")
        try:
            if not isinstance(given, list):
                return mask_of_runs(given.get("counts"), size)
            module = pycocotools_mask()
            runs = module.merge(module.frPyObjects(checked_polygons(given, size), *size))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{where} holds no mask: {error}") from error
        mask: NDArray[np.bool_] = module.decode(runs).astype(bool)
        return mask


def _check_entries(path: Path, images: Any, annotations: Sequence[dict[str, Any]]) -> None:
    """Raise a ValueError for what no photo can be found by, or no mask be."""
    for each in images if isinstance(images, list) else [images]:
        if not isinstance(each, dict) or not isinstance(each.get("id"), str | int | None):
            raise ValueError(f"{path} describes an image by {json.dumps(each)[:SHOWN_CHARACTERS]}, which has no id")
        for name in ("height", "width"):
            if name in each and not (isinstance(each[name], int) and each[name] > 0):
                raise ValueError(
                    f"{path}: image {each.get('id')} has {name}={json.dumps(each[name])[:SHOWN_CHARACTERS]}"
                )
    for number, each in enumerate(annotations):
        if not isinstance(each.get("image_id"), str | int | None):
            raise ValueError(f"{path}: annotation {each.get('id', number)} has an image_id that is no number")
        if not isinstance(each.get("segmentation"), list | dict | None):
            raise ValueError(f"{path}: annotation {each.get('id', number)} holds neither polygons nor run lengths")


def _names(stem: str) -> tuple[str, ...]:
    """What a photo may be called: its name, or the number at its end, as in COCO_val2014_000000000139."""
    number = stem.rpartition("_")[2]
    return (stem, number.lstrip("0") or "0") if number.isdecimal() else (stem,)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The fields of an annotation that depend on its mask (H, W): run lengths, area and box."""
    module = pycocotools_mask()
    runs = module.encode(np.asfortranarray(mask.astype(np.uint8)))
    area, box = int(module.area(runs)), [float(number) for number in module.toBbox(runs)]
    segmentation = {"size": [int(length) for length in runs["size"]], "counts": runs["counts"].decode("ascii")}
    return {"segmentation": segmentation, "area": area, "bbox": box}


def write_coco(path: Path, content: Any, masks: Mapping[int, NDArray[np.bool_]]) -> None:
    """The content of a file with the masks (H, W) of some annotations replaced; everything else stays as it is."""
    whole = isinstance(content, dict)
    annotations: Sequence[dict[str, Any]] = content["annotations"] if whole else content
    changed = [
        {**each, **run_lengths(masks[number])} if number in masks else each for number, each in enumerate(annotations)
    ]
    with replacing(path) as handle:
        handle.write(json.dumps({**content, "annotations": changed} if whole else changed).encode())


def write_results(path: Path, labels: NDArray[np.integer[Any]], image: str) -> None:
    """Labels (H, W) as a list of results: a mask for each class but 0, which is background, as its category.

    Args:
        image: Name of the image, and its id: a number if it is one.
    """
    found = [int(label) for label in np.unique(labels) if label]
    name: int | str = int(image) if image.isdecimal() else image
    results = [{"image_id": name, "category_id": each, "score": 1.0, **run_lengths(labels == each)} for each in found]
    with replacing(path) as handle:
        handle.write(json.dumps(results).encode())
