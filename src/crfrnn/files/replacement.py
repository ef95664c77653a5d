"""Files that take the place of others once they are complete, whatever happens to the process or to the disk.

What is written goes to a file beside the one that is meant, which is renamed at the end. Processes that were killed
leave such a file behind; the next one that writes to the folder removes it. Which are left behind is told by a lock,
which the system takes from a process that ends: numbers of processes repeat, in containers above all.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from crfrnn.files.locks import lock

PART = re.compile(r"\.crfrnn-([0-9a-f]{8})-[0-9a-f]{16}\.part")
"""Names of unfinished files: the machine, whose locks can be asked, and a random number."""
A_DAY = 86_400.0
"""Seconds after which nothing is being written any more on another machine that shares the folder."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
PERMISSIONS = 0o777
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LEFT = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` once complete, so that no reader ever sees half of it.

    It is on the disk before the old one is gone. Symbolic links are followed, and a new file has the permissions and,
    where that is allowed, the owner of the old one. Pipes and devices stay what they are, and get everything at the
    end. Whatever fails, the old file stays whole.

    Raises: OSError: if it cannot be written; it names `path`.
    """
    try:
        old = _status(path)
        if old is not None and (stat.S_ISFIFO(old.st_mode) or stat.S_ISCHR(old.st_mode)):
            with _passing_on(path) as handle:
                yield handle
        else:
            with _replacing(Path(os.path.realpath(path)), old) as handle:
                yield handle
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def leave_alone(folder: Path) -> None:
    """Have this process not look for what killed ones have left in a folder: another one does, and it may be large."""
    _swept.add(Path(os.path.realpath(folder)))


@contextmanager
def beacon(folder: Path) -> Iterator[Path]:
    """An empty file meanwhile in a folder, which is made if it is not there: who sees it sees this folder.

    Raises: OSError: if the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        while (raw := _created(part := _new_name(folder), None)) is None:
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror or error}") from error
    with raw:
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _replacing(target: Path, old: os.stat_result | None) -> Iterator[IO[bytes]]:
    if old is not None:
        _refuse(target, old)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    raw, part = None, _new_name(target.parent)
    try:
        while (raw := _created(part, old)) is None:
            part = _new_name(target.parent)
        try:
            with io.BufferedRandom(raw) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
        except Exception:
            if raw.failure is not None:  # libraries hide that the disk is full behind errors of their own
                raise raw.failure from None
            raise
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _sync(target.parent)


class _Raw(io.FileIO):
    """A file that keeps the error of a write."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _status(path: Path) -> os.stat_result | None:
    """That of the file which a path leads to; None if there is none."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except ValueError as error:  # a zero byte
        raise OSError(str(error)) from error


def _refuse(target: Path, old: os.stat_result) -> None:
    """Raise an OSError for what is not to be replaced."""
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError("it is a folder; name a file")
    if not stat.S_ISREG(old.st_mode):
        raise OSError("it is neither a file nor a pipe")
    if any(_is_open_as(number, old) for number in (1, 2)):
        raise FileExistsError("this process prints to it; name another file")
    if not os.path.exists(target) or not os.path.samestat(os.stat(target), old):
        raise FileNotFoundError("it has no name any more; name another file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _is_open_as(number: int, state: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), state)
    except OSError:  # it is closed
        return False


def _new_name(folder: Path) -> Path:
    return folder / f".crfrnn-{_machine()}-{secrets.token_hex(8)}.part"


def _created(part: Path, old: os.stat_result | None) -> _Raw | None:
    """A new file, locked as long as it is open; None if another process took it for one that was left behind."""
    mode = 0o666 if old is None else old.st_mode & PERMISSIONS
    raw = _Raw(part, "x+b", opener=lambda name, _: os.open(name, _NEW, mode))
    try:
        if lock(raw.fileno()) is False or not os.path.lexists(part):
            raw.close()
            part.unlink(missing_ok=True)
            return None
        if old is not None and hasattr(os, "fchown"):
            with suppress(OSError):
                os.fchown(raw.fileno(), old.st_uid, old.st_gid)
            with suppress(OSError):  # some file systems have no permissions
                os.fchmod(raw.fileno(), mode)
    except BaseException:
        raw.close()
        raise
    return raw


@contextmanager
def _passing_on(path: Path) -> Iterator[IO[bytes]]:
    """A file whose content a pipe or a device gets at the end: writers go back and forth, which those cannot."""
    with TemporaryFile() as handle:
        handle.raw.name = str(path)  # type: ignore[attr-defined]  # libraries expect that of files
        yield handle
        handle.seek(0)
        with open(path, "wb", buffering=0) as output:
            shutil.copyfileobj(handle, output)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of the same user have left in a folder; each folder is looked through once."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = PART.fullmatch(entry.name)
            if found is not None:
                with suppress(OSError):
                    _remove_left(entry.path, found[1])


def _remove_left(path: str, machine: str) -> None:
    """Remove an unfinished file, unless its process may be alive. Raises OSError if it is not to be removed."""
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode) or (hasattr(os, "geteuid") and state.st_uid != os.geteuid()):
        return
    if machine != _machine() and time.time() - state.st_mtime < A_DAY:
        return
    if os.name != "posix":  # an open file cannot be removed there, which is as good as a lock
        os.unlink(path)
        return
    number = os.open(path, _LEFT)
    try:
        if lock(number):
            os.unlink(path)
    finally:
        os.close(number)


@cache
def _machine() -> str:
    """Eight digits for the running system, the same in all its containers."""
    try:
        name = BOOT.read_text()
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if os.name == "posix":
        with suppress(OSError):
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
