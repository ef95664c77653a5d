"""docs/benchmarks.md, from the results of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from .names import NAMES, thetas

HEAD = """# Benchmarks

Written by `make bench`; all on one machine, each case in one run of the commit named below it. Run it on yours.

{machine}

**How it is measured.** A call starts at an 8-bit photo and class scores and ends at probabilities; building the lattice
is part of it. Each tool runs in its own process, pinned to the stated cores, after a warm-up. The processes take turns
(A B A B …); times are medians, a ratio (÷) is the median of the ratios within each round, and below a table stand
geometric means over its photos. Photos are PASCAL VOC 2012 (500×375 or 500×333, chosen smooth, middling and textured)
with the scores of a DeepLabv3 network. Weights are 3 (spatial) and 5 (bilateral), normalisation is `after`.

**What is compared.** pydensecrf2 approximates both kernels on a lattice; crfrnn by default computes the spatial one
exactly and the bilateral one on the same lattice. Before any time is taken, crfrnn with `spatial="lattice"` must give
pydensecrf2's probabilities to 0.001, or the row is not timed; "max Δ" is that difference, with the number of values
beyond 0.001. "Labels off" is the share of pixels whose label
differs from a mean field with exact Gaussian filters, and "mean Δ" the mean difference in probability to it, both on
the photo at half its size with θ_α and θ_γ halved, because exact filters cost O(N²). A ratio under 1× is a loss.

![Time against pixels, classes and lattice vertices](benchmarks.png)

What the default tolerance saves and changes has tables of its own further down, and so have quality and time beside
guided and bilateral filters, PAMR and a bilateral solver.

[accuracy.md](accuracy.md) has the error of every setting against its time, exact filters included:

![Error of lattice, added vertices, grid and exact filter against time](accuracy.png)
"""
FOOT = """
## Reproduce

    make bench                                        # about two hours; writes this page and its JSON
    .venv/bin/python -m benchmarks --quick            # a few minutes, prints only
    .venv/bin/python -m benchmarks --only large       # one case anew, the others kept
    .venv/bin/python -m benchmarks --only tolerance   # 222 photos with the default tolerance and with 0: some minutes
    .venv/bin/python -m benchmarks --only quality     # beside other ways to refine scores: a quarter of an hour
    .venv/bin/python -m benchmarks --peer-python PATH # look for peers in another interpreter too

Photos and volume are read from `--data` (default: `$CRFRNN_DATA`, else `../shared/data`). SimpleCRF needs NumPy below 2
both to build and to run, so give it an environment of its own; crfseg wants `pip install --no-deps crfseg` and tqdm
beside PyTorch.
"""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def error(row: dict, side: str) -> str:
    """Labels that differ from the exact filters' and, where the side gives probabilities, their mean difference."""
    figures = row["errors"].get(side)
    if figures is None:
        return ""
    mean = f", {figures['mean']:.4f}" if "mean" in figures else ""
    return f" ({100 * figures['labels']:.2f} %{mean})"


def timed_table(rows: list[dict]) -> str:
    """One line a row: time of each side, its labels off and mean Δ, then each side's time over the first one's."""
    timed = [row for row in rows if "seconds" in row]
    sides = list(timed[0]["seconds"]) if timed else []
    ratios = {side: f"{NAMES[side]} ÷ {NAMES[sides[0]]}" for side in sides[1:]}
    changed = any("changed" in row for row in rows)
    errors = " (labels off, mean Δ)" if any(row["errors"] for row in timed) else ""
    header = ["photo", "θ", *(f"{NAMES[side]}{errors}" for side in sides), *ratios.values(), "max Δ"]
    lines = []
    for row in rows:
        line = [row["photo"], thetas(row)]
        if row in timed:
            line += [milliseconds(row["seconds"][side]) + error(row, side) for side in sides]
            line += [f"**{row['ratios'][side]:.2f}×**" for side in ratios]
        else:
            line += ["not timed: the answers differ"] * (len(sides) + len(ratios))
        outside = f" ({row['outside']} values)" if row.get("outside") else ""
        line.append(f"{row['difference']:.1e}{outside}" if "difference" in row else "")
        lines.append(line + ([f"{100 * row['changed']:.2f} %" if "changed" in row else ""] if changed else []))
    text = table([*header, "changed"] if changed else header, lines)
    for theta in dict.fromkeys(thetas(row) for row in timed):
        for side, name in ratios.items():
            values = [row["ratios"][side] for row in timed if thetas(row) == theta]
            photos = sum(thetas(row) == theta for row in rows)
            if photos > 1:
                mean, low, high = statistics.geometric_mean(values), min(values), max(values)
                text += f"\nθ {theta}, {name}: geometric mean of {len(values)} of {photos} photos "
                text += f"**{mean:.2f}×** ({low:.2f} to {high:.2f}).\n"
    return text


def memory_table(rows: list[dict]) -> str:
    sides = list(rows[0]["bytes"])
    lines = []
    for row in rows:
        repeated = f"{row['calls']} calls, {row['size'][0]}×{row['size'][1]}" if "calls" in row else "1 call"
        sizes = [f"{row['bytes'][side] / 1e6:.1f} MB" for side in sides]
        lines.append([row["photo"], thetas(row), repeated, *sizes])
    return table(["photo", "θ", "calls", *(NAMES[side] for side in sides)], lines)


def added_vertices_table(rows: list[dict]) -> str:
    lines = [
        [row["photo"], thetas(row), str(row["neighbour_rounds"]), f"{row['vertices']:,}"]
        + [f"{error:.3f}" for error in row["errors"].values()]
        for row in rows
    ]
    return table(["photo", "θ", "rounds", "vertices", *rows[0]["errors"]], lines)


def parts_table(rows: list[dict]) -> str:
    sides = list(rows[0]["parts"])
    lines = [
        [
            row["photo"],
            thetas(row),
            *(milliseconds(row["parts"][side]) for side in sides),
            f"{100 * row['share']:.0f} %",
        ]
        for row in rows
    ]
    names = [NAMES[side] for side in sides]
    return table(["photo", "θ", *names, f"{names[-1]} of {names[0]}"], lines)


def folder_table(rows: list[dict]) -> str:
    sides = list(rows[0]["seconds"])
    lines = [
        [
            thetas(row),
            *(
                f"{row['seconds'][side]:.1f} s"
                + (f", **{row['ratios'][side]:.2f}×**" if side in row["ratios"] and side != "pydensecrf" else "")
                + ("" if side == "refine" else f" ({100 * row['changed'][side]:.2g} % of labels off)")
                for side in sides
            ),
            f"{100 * row['difference']:.2g} %" if "difference" in row else "",
        ]
        for row in rows
    ]
    return table(["θ", *(NAMES[side] for side in sides), "max Δ"], lines)


def scaling_table(rows: list[dict]) -> str:
    sides = list(rows[0]["seconds"])
    times = [[milliseconds(row["seconds"][side]) for side in sides] for row in rows]
    lines = [[row["axis"], f"{row['value']:,}", *line] for row, line in zip(rows, times, strict=True)]
    return table(["varied", "value", *(NAMES[side] for side in sides)], lines)


def promise_table(rows: list[dict]) -> str:
    lines = [
        [
            thetas(row),
            f"{row['tolerance']:g}",
            f"**{row['largest']:.1e}**",
            *(f"{row[over][figure]:.1e}" for over in ("largest_of_a_photo", "of_a_pixel") for figure in row[over]),
            f"{row['changed']:,} of {row['pixels']:,} ({100 * row['changed'] / row['pixels']:.2g} %)",
        ]
        for row in rows
    ]
    figures = [f"{name} of {each}" for each in ("photos", "pixels") for name in ("mean", "99.9th percentile")]
    return table(["θ", "tolerance", "largest &#124;Δq&#124;", *figures, "labels changed"], lines)


def gradients_table(rows: list[dict]) -> str:
    lines = [[thetas(row), *(f"{off:.1e}" for off in row["gradients_to"].values())] for row in rows]
    return table(["θ", *rows[0]["gradients_to"]], lines)


def tolerance_table(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        change = [f"{row['largest']:.1e}", f"{100 * row['changed']:.2g} %"]
        lines.append([row["photo"], thetas(row), f"{row['tolerance']:g}", *change, milliseconds(row["seconds"])])
    return table(["photo", "θ", "tolerance", "largest &#124;Δq&#124;", "labels changed", "time"], lines)


def activity_table(rows: list[dict]) -> str:
    lines = [
        [row["photo"], thetas(row), str(row["iteration"]), f"{100 * row['evaluated']:.1f} %", str(row["classes"])]
        for row in rows
    ]
    return table(["photo", "θ", "iteration", "pixels evaluated", "classes"], lines)


def quality_table(rows: list[dict]) -> str:
    """A line for each method; gain and seconds only where they were measured."""
    gains = any("gain" in row for row in rows)
    cores = list(next((row["seconds"] for row in rows if "seconds" in row), {}))
    lines = []
    for row in rows:
        line = [row["method"], row["settings"], f"{100 * row['mean_iou']:.2f}", f"{100 * row['edge_mean_iou']:.2f}"]
        if gains:
            gain = 100 * (row["mean_iou"] - rows[0]["mean_iou"])
            line += (
                ["{:+.2f} ({:+.2f} to {:+.2f})".format(gain, *(100 * end for end in row["gain"]))]
                if "gain" in row
                else [""]
            )
        line += [milliseconds(row["seconds"][each]) if "seconds" in row else "" for each in cores]
        lines.append(line)
    header = ["method", "settings", "mean IoU", "near edges", *(["gain (95 %)"] if gains else [])]
    return table([*header, *(f"{each} core{'s' if each != '1' else ''}" for each in cores)], lines)


TABLES: dict[str, Callable[[list[dict]], str]] = {
    "method": quality_table,
    "over_photos": promise_table,
    "gradients_to": gradients_table,
    "tolerance": tolerance_table,
    "iteration": activity_table,
    "bytes": memory_table,
    "neighbour_rounds": added_vertices_table,
    "parts": parts_table,
    "axis": scaling_table,
}
"""The table of a case, by a key that its rows have."""


def case_text(case: dict) -> str:
    rows = case["rows"]
    if "photos" in rows[0] and "thetas" in rows[0]:
        body = folder_table([row for row in rows if "seconds" in row])
    else:
        body = next((each for key, each in TABLES.items() if key in rows[0]), timed_table)(rows)
    return f"\n## {case['title']}\n\n{body}\n{case['note']} Commit {case['commit']}.\n".replace("\n ", "\n")


def markdown(results: dict) -> str:
    machine = table(["machine", ""], [[name, str(value)] for name, value in results["machine"].items()])
    return HEAD.format(machine=machine) + "".join(map(case_text, results["cases"].values())) + FOOT
