"""`crfrnn refine` of a folder: several photos or volumes at a time, each on its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Condition

from crfrnn.cli.inputs import INPUT_SUFFIXES
from crfrnn.cli.outputs import folder_suffix, folder_suffixes
from crfrnn.cli.refine import Refinement, iterations_run
from crfrnn.cli.usage import UsageError
from crfrnn.files.photos import ARRAY_SUFFIXES, NIFTI_SUFFIXES, stem_of, suffix_of
from crfrnn.files.progress import progress
from crfrnn.memory import half_of_memory
from crfrnn.threads import thread_count

Files = dict[str, tuple[list[Path], list[Path]]]


def refine_folder(
    refinement: Refinement, scores: Path, images: Path, output: Path, output_format: str | None, overwrite: bool
) -> int:
    """Refine the photos or volumes of a folder that have scores. Returns the exit status.

    On the CPU each is refined on one thread, several at a time. If memory only holds fewer of a large one at a time, it
    also gets the threads that are left idle.
    """
    if output.resolve() in (scores.resolve(), images.resolve()):
        raise UsageError(f"{output} is one of the inputs; name another folder to write to")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; with folders of scores and photos, name a folder to write to")
    chosen_format = output_format or "labels"
    suffixes = folder_suffixes(chosen_format)
    files = paired(scores, images)
    todo = [stem for stem in files if overwrite or not any((output / (stem + end)).exists() for end in suffixes)]
    alone = refinement.tiling is not None or refinement.device is not None
    threads = 1 if alone else thread_count(refinement.threads)
    memory = Memory(half_of_memory())

    def work(stem: str) -> int | None:
        scores_paths, image_paths = files[stem]
        pair = refinement.read(single(scores_paths, stem, scores), single(image_paths, stem, images))
        path = output / (stem + folder_suffix(chosen_format, pair))
        if alone:
            return refinement.write(pair, path, chosen_format).iterations
        needed = refinement.bytes_needed(pair)
        with memory.taken(needed):
            at_a_time = max(1, min(threads, memory.total // needed))
            fewer = replace(refinement, threads=threads // at_a_time)
            return fewer.write(pair, path, chosen_format).iterations

    failures, ran = {}, []
    with ThreadPoolExecutor(threads) as pool:
        futures: dict[Future[int | None], str] = {pool.submit(work, stem): stem for stem in todo}
        try:
            for _, future in zip(progress(todo, "refine"), as_completed(futures), strict=True):
                try:
                    if (iterations := future.result()) is not None:
                        ran.append(iterations)
                except (ValueError, TypeError, OSError, MemoryError) as error:
                    failures[futures[future]] = " ".join(str(error).split())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for stem in sorted(failures):
        print(f"failed: {stem}: {failures[stem]}", file=sys.stderr)
    print(
        f"{output}: {len(todo) - len(failures)} refined, {len(files) - len(todo)} already there, {len(failures)} failed"
        + (f"; {iterations_run(ran, refinement.crf)}" if ran else "")
    )
    return 1 if failures else 0


class Memory:
    """Memory that threads share: each thread waits until what it needs is free, or all memory if it needs more."""

    def __init__(self, total: int) -> None:
        self.total = self._free = total
        self._changed = Condition()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        needed = min(needed, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


def paired(scores: Path, images: Path) -> Files:
    """Scores and images by file name without suffix, for every file of scores."""
    by_stem = files_by_stem(scores)
    if not by_stem:
        raise ValueError(f"{scores} holds no scores ({', '.join(ARRAY_SUFFIXES + NIFTI_SUFFIXES)}) and no label images")
    images_by_stem = files_by_stem(images)
    return {stem: (files, images_by_stem.get(stem, [])) for stem, files in by_stem.items()}


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The visible files of a folder that can be read, by name without suffix."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if suffix_of(path) in INPUT_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            by_stem.setdefault(stem_of(path), []).append(path)
    return by_stem


def single(paths: list[Path], stem: str, folder: Path) -> Path:
    """The only file of that name."""
    if not paths:
        raise ValueError(f"there is no photo named {stem} in {folder}")
    if len(paths) > 1:
        raise ValueError(f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one")
    return paths[0]
