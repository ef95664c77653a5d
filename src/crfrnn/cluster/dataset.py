"""`refine` of a dataset of Ray Data, row by row, lazily, as any other of its steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.crf import CRF
from crfrnn.files.parameter_files import crf_of, parameters_of
from crfrnn.files.places import Place, fetched, place
from crfrnn.numbers import whole_number
from crfrnn.parameters import DEFAULT_PRESET, CRFParameters, with_values
from crfrnn.refine import refine as refine_one

if TYPE_CHECKING:
    from ray.data import Dataset


def refine(
    dataset: Dataset,
    parameters: CRFParameters | CRF | str | Path = DEFAULT_PRESET,
    *,
    scores: str = "scores",
    image: str = "image",
    into: str = "labels",
    device: str | None = None,
    threads: int = 1,
    **options: Any,
) -> Dataset:
    """Refine each row of a dataset of Ray Data by `crfrnn.refine`.

    Args:
        dataset: Its rows have scores and images: arrays as `crfrnn.refine` takes them, or paths and URLs of files,
            which the workers read.
        parameters: As for `crfrnn.refine`.
        scores: The column of the scores.
        image: The column of the images.
        into: The column that is added: "labels" holds the likeliest class of each pixel; any other name, such as
            "probabilities", what `crfrnn.refine` returns, unless `return_labels` says something else.
        device: A device of torch, such as "cuda": each worker then takes a GPU.
        threads: CPUs of each worker. The result is the same for any number.
        **options: Arguments of `crfrnn.refine`, such as `input`, `num_classes` and `spacing`, and fields of the
            parameters, such as `theta_beta=10`.
    Returns: A dataset that computes them when it is consumed.
    Raises:
        ValueError or TypeError: here for wrong parameters; for a row that cannot be refined, when it is computed. With
            `DataContext.max_errored_blocks`, Ray Data leaves out the rows that fail and their neighbours in a block.
    """
    known = ("input", "num_classes", "mask", "given", "spacing", "origin", "upsampling", "return_labels")
    values = {name: options.pop(name) for name in list(options) if name not in known}
    whole = crf_of(with_values(parameters_of(parameters), values) if values else parameters)
    options.setdefault("return_labels", into == "labels")
    work = partial(
        _refined_row, crf=whole, scores=scores, image=image, into=into, device=device, threads=threads, options=options
    )
    whole_number(threads, "threads", least=1)
    gpus = None if device is None or device.startswith("cpu") else 1
    return dataset.map(work, num_cpus=threads, num_gpus=gpus)


def _refined_row(
    row: dict[str, Any],
    crf: CRF,
    scores: str,
    image: str,
    into: str,
    device: str | None,
    threads: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    for column in (scores, image):
        if column not in row:
            raise ValueError(f"a row has no column {column!r}, only {', '.join(row)}: name it by scores= or image=")
    given = [row[scores], row[image]]
    files: dict[int, Place] = {index: place(each) for index, each in enumerate(given) if isinstance(each, str)}
    with fetched(*files.values()) as paths:
        for index, path in zip(files, paths, strict=True):
            given[index] = path
        refined: Any = refine_one(given[0], given[1], crf, device=device, threads=threads, **options)
        return {**row, into: refined}
