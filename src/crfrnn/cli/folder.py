"""`crfrnn refine` of a folder: several photos or volumes at a time, each on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Condition

from crfrnn.cli.failures import described
from crfrnn.cli.outputs import RESULT_SUFFIXES, folder_suffix, folder_suffixes
from crfrnn.cli.pairing import left_over, paired
from crfrnn.cli.printing import complain, say
from crfrnn.cli.refinement import Refinement, Written, iterations_run
from crfrnn.cli.usage import SUBJECT, UsageError, counted, going_on, one_line, real_path
from crfrnn.files.photos import suffix_of
from crfrnn.files.progress import progress
from crfrnn.interrupts import telling
from crfrnn.memory import half_of_memory
from crfrnn.threads import thread_count

COMPARED = 4
"""Labels before and after are compared at every so many pixels along each axis, to tell which classes are gone."""
WARNINGS_SHOWN = 5
OVERWRITE_HINT = "; --overwrite redoes what is there"


def refine_folder(
    refinement: Refinement,
    scores: Path,
    images: Path,
    output: Path,
    output_format: str | None,
    overwrite: bool,
) -> int:
    """Refine the photos or volumes of a folder that have scores. Returns the exit status.

    On the CPU each is refined on one thread, several at a time. If memory only holds fewer of a large one at a time, it
    also gets the threads that are left idle. Results come through a queue: the locks of futures stay taken if Ctrl-C
    comes while one is being taken, and their threads then wait forever.
    """
    if real_path(output) in (real_path(scores), real_path(images)):
        raise UsageError(f"{output} is one of the inputs; name another folder to write to")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; with folders of scores and photos, name a folder to write to")
    if suffix_of(output) in RESULT_SUFFIXES and not output.exists():
        raise UsageError(f"{output} is named like a file; with folders of scores and photos, name a folder to write to")
    chosen_format = output_format or "labels"
    suffixes = folder_suffixes(chosen_format)
    cases = paired(scores, images)
    alone_images = left_over(cases, images)
    todo = [stem for stem in cases if overwrite or not any((output / (stem + end)).exists() for end in suffixes)]
    alone = refinement.tiling is not None or refinement.device is not None
    threads = 1 if alone else thread_count(refinement.threads)
    memory = Memory(half_of_memory())
    sampled = replace(refinement, compared=COMPARED)

    def work(stem: str) -> tuple[Written, tuple[str, ...]]:
        SUBJECT.set(stem)
        case = cases[stem]
        if case.problem:
            raise ValueError(case.problem)
        pair = refinement.reading.pair(case.scores[0], case.images)
        path, notes = output / (stem + folder_suffix(chosen_format, pair)), (*case.notes, *pair.notes)
        if alone:
            return sampled.write(pair, path, chosen_format), notes
        needed = refinement.bytes_needed(pair)
        with memory.taken(needed):
            at_a_time = max(1, min(threads, memory.total // needed))
            fewer = replace(sampled, threads=threads // at_a_time)
            return fewer.write(pair, path, chosen_format), notes

    ended: SimpleQueue[tuple[str, tuple[Written, tuple[str, ...]] | BaseException]] = SimpleQueue()

    def attempt(stem: str) -> None:
        try:
            ended.put((stem, work(stem)))
        except BaseException as error:
            ended.put((stem, error))

    failures, ran, gone, notes, refined = {}, [], {}, Counter[str](), 0

    def so_far() -> str:
        last = [ended.get()[1] for _ in range(ended.qsize())]
        done = refined + sum(not isinstance(each, BaseException) for each in last)
        return going_on(done, len(todo), "refined", overwrite)

    shown = progress(todo, "refine")  # it imports: no thread is to be at work then
    with telling(so_far), ThreadPoolExecutor(threads) as pool:
        try:
            for stem in todo:
                pool.submit(attempt, stem)
            for _ in shown:
                stem, outcome = ended.get()
                if isinstance(outcome, Exception):
                    failures[stem] = described(outcome)
                    continue
                if isinstance(outcome, BaseException):
                    raise outcome
                written, said = outcome
                refined += 1
                notes.update(each for each in (*said, written.lost) if each)
                if written.iterations is not None:
                    ran.append(written.iterations)
                if written.warning is not None:
                    gone[stem] = written.warning
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _print_warnings(gone, notes)
    for stem in sorted(failures):
        complain("failed", one_line(stem), failures[stem])
    say(
        f"{len(todo) - len(failures)} refined, {len(cases) - len(todo)} already there, {len(failures)} failed"
        + (f"; {counted(alone_images, 'image')} without scores" if alone_images else "")
        + (OVERWRITE_HINT if len(todo) < len(cases) else "")
        + (f"; {iterations_run(ran, refinement.crf)}" if ran else ""),
        output,
    )
    return 1 if failures else 0


def _print_warnings(gone: dict[str, str], notes: Counter[str]) -> None:
    """Print what is worth knowing of some photos, and how many there are."""
    for stem in sorted(gone)[:WARNINGS_SHOWN]:
        complain("crfrnn refine", "warning", one_line(stem), gone[stem])
    if len(gone) > WARNINGS_SHOWN:
        more = counted(len(gone) - WARNINGS_SHOWN, "more image")
        complain("crfrnn refine", "warning", f"classes are gone in {more}")
    for note, count in sorted(notes.items()):
        complain("crfrnn refine", counted(count, "image"), note)


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
