"""`python -m benchmarks`: measure, print, and write benchmarks/results/*.json and docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from crfrnn.files.progress import progress

from .cases import CASES
from .machine import commit, machine
from .measure import MODULES, PEERS, ROOT, Workbench, find_sides
from .plots import PLOTS
from .report import case_text, markdown


def write(results: dict, path: Path) -> None:
    """The JSON and the page, after each case: a run cut short keeps what it measured."""
    cases = results["cases"]
    results["cases"] = {case.name: cases[case.name] for case in CASES if case.name in cases}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs" / "benchmarks.md").write_text(markdown(results))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    data = os.environ.get("CRFRNN_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--data", type=Path, default=data, help="folder with voc_animals/ and volume3d/ (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="one photo, three rounds; prints and writes nothing")
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES], help="this case; repeatable")
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="PATH", help="interpreter to find peers in"
    )
    arguments = parser.parse_args()
    if not (arguments.data / "voc_animals" / "logits33").is_dir():
        parser.error(f"no voc_animals/logits33 in {arguments.data}; give the data folder with --data or CRFRNN_DATA")

    pythons, versions = find_sides([sys.executable, *arguments.peer_python])
    if "crfrnn" not in pythons:
        parser.error(f"crfrnn does not import in {sys.executable}; `make bench` installs it first")
    for side in MODULES.keys() - pythons.keys():
        print(f"{MODULES[side]} does not import: no figures for {PEERS.get(side, side)}", file=sys.stderr)

    description = machine(versions)
    name = re.sub(r"\W+", "-", f"{description['processor']} {description['cores']} cores".lower())
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    results = {"machine": description, "cases": {}}
    if arguments.only and path.exists():
        results["cases"] = json.loads(path.read_text())["cases"]
    wanted = arguments.only or [case.name for case in CASES]
    chosen = [case for case in CASES if case.name in wanted and case.sides[0] in pythons]
    failed, measured = [], commit()
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) if arguments.quick else ROOT / "docs"
        bench = Workbench(arguments.data, Path(scratch), pictures, pythons, arguments.quick)
        for case in progress(chosen, "cases"):
            rows = case.measure(case, bench)
            entry = {"title": case.title, "note": case.note, "commit": measured, "rows": rows}
            results["cases"][case.name] = entry
            print(case_text(entry), flush=True)
            if case.name in PLOTS:
                file, plot = PLOTS[case.name]
                plot(rows, pictures / file)
            if any("difference" in row and "seconds" not in row for row in rows):
                failed.append(case.name)
            if not arguments.quick:
                write(results, path)
    if failed:
        print(f"not timed, because the answers differ: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
