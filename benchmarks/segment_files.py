"""`python -m benchmarks.segment_files`: what `crfrnn segment` does with files, without network and CRF.

JPEG files of 500×375 are read, and labels and overlays written, as the command does beside a GPU: in threads, which
share the processors. That bounds how many photos a second a GPU can be given.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn.cli.segment import BATCH, LABELS_END, OVERLAY_END, Found, Photo, Results, Segmenting
from crfrnn.cli.stages import Stages
from crfrnn.demo import EXAMPLES, read_example
from crfrnn.models import load_model
from crfrnn.segment import LONGEST_SIDE, segment

SIZE = (500, 375)
MEMORY = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segment_files", description=__doc__)
    parser.add_argument("--photos", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 16], help="default: 1 2 4 16")
    arguments = parser.parse_args()
    model = load_model()
    small = [np.asarray(Image.fromarray(read_example(name)).resize(SIZE)) for name in EXAMPLES]
    labels = [segment(photo, model).labels for photo in small]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for index in range(arguments.photos):
            moved = np.roll(small[index % len(small)], index, axis=1)
            Image.fromarray(moved).save(folder / f"{index}.jpg", quality=90)
        photos = [Photo(folder, f"{index}.jpg") for index in range(arguments.photos)]
        print(f"{len(os.sched_getaffinity(0))} processors")
        for threads in arguments.threads:
            runs = []
            for run in range(arguments.runs):
                output = folder / f"{threads}-{run}"
                output.mkdir()
                ends = {"labels": LABELS_END, "overlay": OVERLAY_END}
                work = Segmenting(model, Results(output, ends), True, LONGEST_SIDE)
                # Each batch has the labels of the examples, which is all that a GPU would bring.
                stages = Stages(
                    work.read,
                    lambda seen: [Found(each, labels[i % len(labels)], None) for i, each in enumerate(seen)],
                    work.write,
                    BATCH,
                    threads,
                    MEMORY,
                )
                wall, processor = time.perf_counter(), time.process_time()
                stages(photos, _raise)
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
                runs.append((arguments.photos / wall, 1000 * processor / arguments.photos))
            rate, cost = np.median(runs, axis=0)
            print(f"{threads:2} threads: {rate:.0f} photos a second, {cost:.1f} ms of a processor a photo", flush=True)


def _raise(number: int, outcome: bool | Exception) -> None:
    if isinstance(outcome, Exception):
        raise outcome


if __name__ == "__main__":
    main()
