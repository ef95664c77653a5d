"""Tries as many examples as asked by chance, one call after the other: `python tests/fuzz 100000`.

Prints what came of them, and writes each kind of fault, made small, to a file that `python tests/fuzz --again FILE`
tries once more.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from search import search
from worker import Verdict, Worker

from cases import CALLS, EXAMPLES

ROUND = 100
"""Examples of a call before the next one has its turn."""
BEGIN, END = "<!-- last long run -->", "<!-- end of last long run -->"


def main() -> int:
    """Run, and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument(
        "examples", type=int, nargs="?", default=10_000, help="how many in all; %(default)s if not given"
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[""], help="only calls whose name begins so")
    parser.add_argument("--calls", action="store_true", help="only arrays, no files")
    parser.add_argument("--seed", type=int, default=None, help="to have the same run again; a new one if not given")
    parser.add_argument(
        "--output", type=Path, default=Path("out/fuzz"), metavar="FOLDER", help="for faults; %(default)s"
    )
    parser.add_argument("--page", type=Path, metavar="PAGE", help="page whose table of the last long run is replaced")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try the example of a file once more")
    options = parser.parse_args()
    with Worker() as worker:
        if options.again:
            return again(worker, options.again)
        chance = random.randrange(2**32) if options.seed is None else options.seed
        print(f"seed {chance}", flush=True)
        kinds = CALLS if options.calls else EXAMPLES
        names = [name for name in kinds if name.startswith(tuple(options.only))]
        counts, faults = run(worker, names, options.examples, chance, options.output)
    table = table_of(counts, faults)
    print(table)
    for name, found in faults.items():
        print(f"{found.outcome}: {name}")
    if options.page:
        text = options.page.read_text(encoding="utf-8")
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        options.page.write_text(f"{text[:begin]}\n{table}\n{text[end:]}", encoding="utf-8")
    return 1 if faults else 0


def run(
    worker: Worker, names: list[str], most: int, chance: int, output: Path
) -> tuple[dict[str, Counter], dict[str, Verdict]]:
    """Counts by name, and faults by name and signature."""
    counts: dict[str, Counter] = {name: Counter() for name in names}
    faults: dict[str, Verdict] = {}
    began, turn = time.monotonic(), 0
    while (done := sum(sum(each.values()) for each in counts.values())) < most:
        name = names[turn % len(names)]
        here = min(ROUND, max(1, (most - done) // len(names)) if most - done < ROUND * len(names) else ROUND)
        found = search(name, EXAMPLES[name], worker, here, counts[name], set(faults), chance + turn)
        turn += 1
        if found is not None:
            example, verdict = found
            key = f"{name}: {verdict.signature}"
            faults[key] = verdict
            path = written(output, name, example, verdict)
            print(f"{key}\n  {verdict.seen.strip()[:400]}\n  {json.dumps(example)[:600]}\n  {path}", flush=True)
        if turn % len(names) == 0:
            print(f"{done} examples, {len(faults)} faults, {time.monotonic() - began:.0f} s", flush=True)
    return counts, faults


def written(folder: Path, name: str, example: Any, verdict: Verdict) -> Path:
    """Where an example is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"\W+", "-", f"{name}-{verdict.signature}")[:120] + ".json")
    path.write_text(json.dumps({"property": name, "example": example, "fault": verdict._asdict()}, indent=1))
    return path


def again(worker: Worker, path: Path) -> int:
    """Try what `written` kept, and print what is said of it."""
    kept = json.loads(path.read_text())
    verdict = worker.verdict(kept["property"], kept["example"])
    print(verdict.outcome, verdict.signature if verdict.outcome == "fault" else "", verdict.seen)
    return 1 if verdict.outcome == "fault" else 0


def table_of(counts: dict[str, Counter], faults: dict[str, Verdict]) -> str:
    """Markdown of what came of all calls."""
    rows = ["| call | examples | right | refused | kinds of fault |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, count in counts.items():
        kinds = sum(key.startswith(f"{name}: ") for key in faults)
        rows.append(
            f"| {name.replace('_', ' ')} | {sum(count.values())} | {count['right']} | {count['refused']} | {kinds} |"
        )
    total = sum(counts.values(), Counter())
    rows.append(f"| all | {sum(total.values())} | {total['right']} | {total['refused']} | {len(faults)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
