"""`crfrnn refine` of a folder: several photos or volumes at a time, each on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from crfrnn.cli.failures import described
from crfrnn.cli.outputs import RESULT_SUFFIXES, folder_suffix, folder_suffixes
from crfrnn.cli.pairing import Case, paired
from crfrnn.cli.printing import complain, say
from crfrnn.cli.refinement import Refinement, iterations_run
from crfrnn.cli.usage import UsageError, counted, going_on, one_line
from crfrnn.files.photos import suffix_of
from crfrnn.files.places import Place, delivered, fetched, is_folder, is_there, names_there, real_place
from crfrnn.interrupts import telling
from crfrnn.jobs import Engine, Job, Share, Work, one_by_one
from crfrnn.threads import thread_count

COMPARED = 4
"""Labels before and after are compared at every so many pixels along each axis, to tell which classes are gone."""
WARNINGS_SHOWN = 5
OVERWRITE_HINT = "; --overwrite redoes what is there"

Item = tuple[str, Case]
"""What a result is called, and what it is made of."""


@dataclass(frozen=True)
class Refined:
    """What is worth telling of a photo or volume that was refined; see `Written`."""

    iterations: int | None
    warning: str | None
    notes: tuple[str, ...]


class RefineFolder(Job[Item, Refined]):
    """Refines the cases of a folder.

    On the CPU each is refined on one thread, several at a time. If memory only holds fewer of a large one at a time, it
    also gets the threads that are left idle. Tiles and devices take a whole machine, one case at a time.
    """

    def __init__(
        self, refinement: Refinement, scores: Place, images: Place, output: Place, output_format: str | None
    ) -> None:
        self.refinement = replace(refinement, compared=COMPARED)
        self.scores, self.images, self.output = scores, images, output
        self.shared, self.inputs = output, (scores, images)
        self.format = output_format or "labels"
        self.alone = refinement.tiling is not None or refinement.device is not None
        self.at_once = 1 if self.alone else thread_count(refinement.threads)
        self.threads, self.device = refinement.threads, refinement.device

    def name(self, item: Item) -> str:
        return item[0]

    def todo(self, cases: Mapping[str, Case]) -> list[Item]:
        """The cases without a result. The folder of results is listed once."""
        there, ends = names_there(self.output), folder_suffixes(self.format)
        return [(name, case) for name, case in cases.items() if not any(name + end in there for end in ends)]

    def worker(self, share: Share) -> Work[Item, Refined]:
        if self.device is not None:
            from crfrnn.torch.arrays import device_named

            device_named(self.device)  # once: each case would fail of it

        def work(item: Item) -> Refined:
            name, case = item
            if case.problem:
                raise ValueError(case.problem)
            inputs = [self.scores / each for each in (*case.scores, *case.beside)]
            with fetched(*inputs, *(self.images / each for each in case.images)) as paths:
                pair = self.refinement.reading.pair(paths[0], paths[len(inputs) :])
                target = self.output / (name + folder_suffix(self.format, pair))
                with delivered(target) as path:
                    if self.alone:
                        written = self.refinement.write(pair, path, self.format)
                    else:
                        with share.taken(self.refinement.bytes_needed(pair)) as threads:
                            written = replace(self.refinement, threads=threads).write(pair, path, self.format)
            notes = (*case.notes, *pair.notes, written.lost)
            return Refined(written.iterations, written.warning, tuple(filter(None, notes)))

        return one_by_one(work, self.name)


def refine_folder(job: RefineFolder, overwrite: bool, engine: Engine) -> int:
    """Refine the photos or volumes of a folder that have scores. Returns the exit status."""
    output = job.output
    if real_place(output) in (real_place(job.scores), real_place(job.images)):
        raise UsageError(f"{output} is one of the inputs; name another folder to write to")
    if is_there(output) and not is_folder(output):
        raise UsageError(f"{output} is a file; with folders of scores and photos, name a folder to write to")
    if suffix_of(output) in RESULT_SUFFIXES and not is_there(output):
        raise UsageError(f"{output} is named like a file; with folders of scores and photos, name a folder to write to")
    pairing = paired(job.scores, job.images)
    todo = list(pairing.cases.items()) if overwrite else job.todo(pairing.cases)
    report = Report()
    with telling(lambda: going_on(report.refined, len(todo), "refined", overwrite)):
        engine.run(job, todo, lambda number, outcome: report.add(todo[number][0], outcome), "refine")
    for remark in engine.remarks:
        complain("crfrnn refine", "warning", remark)
    report.complain()
    already = len(pairing.cases) - len(todo)
    say(
        f"{report.refined} refined, {already} already there, {len(report.failures)} failed"
        + (f"; {counted(pairing.left_over, 'image')} without scores" if pairing.left_over else "")
        + (OVERWRITE_HINT if already else "")
        + (f"; {iterations_run(report.iterations, job.refinement.crf)}" if report.iterations else ""),
        output,
    )
    return 1 if report.failures else 0


class Report:
    """What is told at the end about the cases of a folder.

    Attributes:
        refined: How many were.
        failures: Why others were not, by name.
        iterations: How often each number of iterations ran.
    """

    def __init__(self) -> None:
        self.refined = 0
        self.failures: dict[str, str] = {}
        self.iterations = Counter[int]()
        self._gone: dict[str, str] = {}
        self._notes = Counter[str]()

    def add(self, name: str, outcome: Refined | Exception) -> None:
        """Count what came of a case."""
        if isinstance(outcome, Exception):
            self.failures[name] = described(outcome)
            return
        self.refined += 1
        self._notes.update(outcome.notes)
        if outcome.iterations is not None:
            self.iterations[outcome.iterations] += 1
        if outcome.warning is not None:
            self._gone[name] = outcome.warning

    def complain(self) -> None:
        """Print what is worth knowing of some cases, and how many there are, and then what failed."""
        for name in sorted(self._gone)[:WARNINGS_SHOWN]:
            complain("crfrnn refine", "warning", one_line(name), self._gone[name])
        if len(self._gone) > WARNINGS_SHOWN:
            more = counted(len(self._gone) - WARNINGS_SHOWN, "more image")
            complain("crfrnn refine", "warning", f"classes are gone in {more}")
        for note, count in sorted(self._notes.items()):
            complain("crfrnn refine", counted(count, "image"), note)
        for name in sorted(self.failures):
            complain("failed", one_line(name), self.failures[name])
