"""Where files lie: in folders of this machine, or anywhere that fsspec reaches, such as s3://bucket/photos.

Readers and writers of this package work on files of this machine. What lies elsewhere is copied here before it is read,
and results are written here and then copied there, whole or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"
"""A file or a folder: `pathlib.Path` on this machine, `upath.UPath` elsewhere."""
URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
"""How an address of another place begins. A single letter is a drive of Windows."""
OBJECT_STORES = ("abfs", "abfss", "az", "gcs", "gs", "memory", "oss", "s3", "s3a")
"""Protocols of places where a file appears as a whole."""
BUCKETS = tuple(protocol for protocol in OBJECT_STORES if protocol != "memory")
"""Of these, those whose addresses begin with a bucket, which is not made by writing to it."""
COPIED = 8 * 2**20
"""Bytes that are copied at once."""


def place(given: str | os.PathLike[str]) -> Place:
    """The place that a path or a URL names.

    Raises:
        ImportError: if fsspec is missing.
        ValueError: if there is no such kind of place.
    """
    scheme = URL.match(given) if isinstance(given, str) else None
    if scheme is None or not isinstance(given, str):
        return Path(given)
    if scheme[1] in ("file", "local"):
        return Path(given[scheme.end() :])
    try:
        from upath import UPath
    except ImportError as error:
        raise ImportError(f"{given} is reached by fsspec: pip install 'crfrnn[cluster]'") from error
    try:
        return UPath(given)
    except ValueError as error:
        raise ValueError(f"cannot reach {given}: {error}") from error


def is_elsewhere(where: object) -> bool:
    """Whether this is a place that only fsspec reaches."""
    return hasattr(type(where), "fs")  # asking the place itself would connect to it


def real_place(where: Place) -> Place:
    """What a place means, for comparisons: through symbolic links, also where those go in circles."""
    return Path(os.path.realpath(where)) if isinstance(where, Path) else where


def is_there(where: Place) -> bool:
    """Whether there is such a file or folder.

    Raises ValueError or ImportError if the place cannot be reached, or even its bucket is not there.
    """
    with _told(where, "reach") if is_elsewhere(where) else nullcontext():
        found = bool(where.exists())
        if not found and not isinstance(where, Path) and where.protocol in BUCKETS:
            bucket = where.path.lstrip("/").partition("/")[0]
            if not where.fs.exists(bucket):
                raise ValueError(f"there is no bucket {bucket!r} that can be looked into")
        return found


def is_folder(where: Place) -> bool:
    """Whether there is such a folder. Raises as `is_there` does."""
    with _told(where, "reach") if is_elsewhere(where) else nullcontext():
        return bool(where.is_dir())


def names_in(folder: Place) -> Iterator[str]:
    """The names of the visible files in a folder, in no order. A folder on this machine is read as they are taken.

    Raises: OSError: if there is no such folder, or it cannot be read.
    """
    if isinstance(folder, Path):
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and not _is_of_files(entry):
                    yield entry.name
        return
    with _told(folder, "list"):
        folder.fs.invalidate_cache(folder.path)
        entries = folder.fs.ls(folder.path, detail=True)
        folder.fs.invalidate_cache(folder.path)  # it would keep millions of entries
    for entry in entries:
        name = entry["name"].rpartition("/")[2]
        if entry["type"] != "directory" and name and not name.startswith("."):
            yield name


def names_there(folder: Place) -> frozenset[str]:
    """The names of the visible files in a folder, none if it does not exist."""
    return frozenset(names_in(folder)) if is_folder(folder) else frozenset()


@contextmanager
def fetched(*places: Place) -> Iterator[list[Path]]:
    """Files to read on this machine: themselves, or copies that are removed at the end. Errors name the places.

    Files of one folder are in one folder again, under their names.

    Raises: ValueError: if one cannot be copied.
    """
    if not any(map(is_elsewhere, places)):
        yield [Path(each) for each in places]
        return
    with TemporaryDirectory(prefix="crfrnn-") as root:
        folders: dict[str, Path] = {}
        paths: list[Path] = []
        for each in places:
            if isinstance(each, Path):
                paths.append(each)
                continue
            folder = folders.setdefault(str(each.parent), Path(root, str(len(folders))))
            folder.mkdir(exist_ok=True)
            paths.append(folder / each.name)
            with _told(each, "read"):
                each.fs.get_file(each.path, str(paths[-1]))
        with _naming({str(path): name for name, path in folders.items()}):
            yield paths


@contextmanager
def delivered(target: Place) -> Iterator[Path]:
    """A path on this machine to write a file to, which then takes the place of `target`, whole or not at all.

    A file on this machine is written under its own path: `crfrnn.files.replacement` takes care of it there. Object
    stores show a file once they have all of it; in other file systems fsspec commits it then.

    Raises: OSError: if it cannot be written; it names `target`.
    """
    if isinstance(target, Path):
        yield target
        return
    with TemporaryDirectory(prefix="crfrnn-") as root:
        path = Path(root, target.name)
        with _naming({root: str(target.parent)}):
            yield path
        with _told(target, "write"):
            if target.protocol in OBJECT_STORES:
                target.fs.put_file(str(path), target.path)
            else:
                _commit(path, target)


def _is_of_files(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes in a circle
        return False


def _commit(path: Path, target: UPath) -> None:
    """Copy a file to where files grow as they are written: under another name, until all of it is there."""
    target.fs.makedirs(str(target.parent.path), exist_ok=True)
    handle = target.fs.open(target.path, "wb", autocommit=False)
    try:
        with path.open("rb") as source, handle:
            shutil.copyfileobj(source, handle, COPIED)
        handle.commit()
    except BaseException:
        handle.discard()
        raise


@contextmanager
def _told(where: Place, verb: str) -> Iterator[None]:
    """Turn what libraries raise into an error that names the place: ValueError of reading, OSError of writing."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"cannot {verb} {where}: {error}") from error
    except Exception as error:
        what = "bucket or folder" if verb == "write" else "file or folder"
        words = f"there is no such {what}" if isinstance(error, FileNotFoundError) else str(error) or repr(error)
        kind = OSError if verb == "write" else ValueError
        raise kind(f"cannot {verb} {where}: {words}") from error


@contextmanager
def _naming(places: Mapping[str, str]) -> Iterator[None]:
    """Have errors name places instead of their copies here."""

    def renamed(text: Any) -> Any:
        for path, name in places.items():
            text = text.replace(path, name) if isinstance(text, str) else text
        return text

    try:
        yield
    except Exception as error:
        error.args = tuple(map(renamed, error.args))
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = renamed(os.fspath(error.filename))
        raise
