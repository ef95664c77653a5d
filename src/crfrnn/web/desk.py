"""What one user works on: a photo, its scores, scribbles on it, and what the CRF makes of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.crf import CRF, FrankWolfe
from crfrnn.files.classes import BACKGROUND, VOID, ClassSet, class_set
from crfrnn.files.comparison import VISIBLE
from crfrnn.files.palette import CLEAR_COLOURS
from crfrnn.files.parameter_files import crf_of
from crfrnn.inference.activity import Activity
from crfrnn.inference.energy import frank_wolfe_trace, mean_field_trace
from crfrnn.inference.terms import build_terms
from crfrnn.models import Model
from crfrnn.models.crf import crf_of_layer
from crfrnn.models.segmenter import of_classes
from crfrnn.parameters import CRFParameters
from crfrnn.refine import guide_of, refine
from crfrnn.segment import LONGEST_SIDE, enlarged_labels, image_batch
from crfrnn.unary import unary_from_labels

Source = Literal["network", "file", "scribbles"]

CERTAINTY = 0.99
"""The probability that a scribbled label is right."""
MOST_EXACT_PIXELS = 40_000
"""A photo of more pixels would take minutes with the exact filter, in which others wait."""
MOST_STROKES = 500
MOST_POINTS = 2_000
"""Of a stroke."""
MOST_POINTS_TOGETHER = 50_000
"""Of all strokes: a second to draw."""
WIDEST_STROKE = 100


@dataclass(frozen=True, eq=False)
class Desk:
    """A photo and what is known of it.

    Attributes:
        name: Of the photo's file, without its suffix.
        photo: RGB (h, w, 3), reduced to `LONGEST_SIDE`.
        size: (height, width) of the photo as it came.
        classes: Their names, and the colours in which the page shows them.
        scores: Logits (C, h, w) of the network or of a file; None where scribbles are all there is.
        source: Where they come from.
        scribbles: Class ids (h, w), `VOID` where nothing is drawn.
        seconds: What the network took; None without one.
    """

    name: str
    photo: NDArray[np.uint8]
    size: tuple[int, int]
    classes: ClassSet
    scores: NDArray[np.float32] | None
    source: Source
    scribbles: NDArray[np.uint8]
    seconds: float | None = None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.photo.nbytes + self.scribbles.nbytes + (0 if self.scores is None else self.scores.nbytes)

    @property
    def is_drawn(self) -> bool:
        """Whether there is a scribble."""
        return bool((self.scribbles != VOID).any())

    def evidence(self) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Logits (C, h, w) with the scribbles, and the class of each; without scores, of the classes that are drawn.

        Raises: ValueError: if there are no scores, and scribbles of fewer than two classes.
        """
        drawn = self.scribbles != VOID
        if self.scores is not None:
            if not self.is_drawn:
                return self.scores, np.arange(len(self.scores))
            certain = unary_from_labels(self.scribbles, len(self.scores), CERTAINTY, zero_unsure=False)
            return np.where(drawn, certain, self.scores), np.arange(len(self.scores))
        ids = np.unique(self.scribbles[drawn])
        if len(ids) < 2:
            raise ValueError("draw scribbles of at least two classes: there are no scores that tell what is where")
        places = np.where(drawn, np.searchsorted(ids, self.scribbles), -1)
        return unary_from_labels(places, len(ids), CERTAINTY, zero_unsure=False), ids

    def before(self) -> NDArray[np.integer]:
        """Class ids (h, w) without the CRF: of the scores, or the scribbles alone, `VOID` elsewhere."""
        if self.scores is None:
            return self.scribbles
        return np.where(self.scribbles != VOID, self.scribbles, self.scores.argmax(axis=0))


@dataclass(frozen=True, eq=False)
class Refined:
    """What a CRF makes of a desk.

    Attributes:
        probabilities: (C, h, w) of the classes `ids`.
        labels: Class ids (h, w).
        activity: What the solver worked out in each iteration.
        seconds: What that took.
    """

    desk: Desk
    ids: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.integer]
    activity: Activity
    seconds: float

    def full_labels(self) -> NDArray[np.uint8]:
        """Class ids at the size of the photo as it came."""
        found: NDArray[np.uint8] = self.ids.astype(np.uint8)[enlarged_labels(self.probabilities, self.desk.size)]
        return found


def opened_desk(name: str, photo: NDArray[np.uint8], model: Model, source: Source) -> Desk:
    """A photo (H, W, 3) of any size, with the scores of the model's network, or without any."""
    height, width = photo.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        photo = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))
    nothing = np.full(photo.shape[:2], VOID, np.uint8)
    desk = Desk(Path(name).stem, photo, (height, width), model.classes, None, "scribbles", nothing)
    return with_network(desk, model) if source == "network" else with_scribbles_alone(desk, model)


def with_network(desk: Desk, model: Model) -> Desk:
    """The desk with the scores of the model's network, and no scribbles."""
    import torch

    start = time.perf_counter()
    with torch.inference_mode():
        logits = of_classes(model.segmenter.unary(image_batch([desk.photo], model.segmenter)))
        scores: NDArray[np.float32] = logits[0].float().cpu().numpy()
    seconds = time.perf_counter() - start
    return replace(_cleared(desk, model.classes, scores), scores=scores, source="network", seconds=seconds)


def with_scores(desk: Desk, scores: NDArray[np.float32]) -> Desk:
    """The desk with scores (C, h, w) of classes that are numbered, and no scribbles."""
    classes = class_set(len(scores))
    return replace(_cleared(desk, classes, scores), scores=scores, source="file", seconds=None)


def with_scribbles_alone(desk: Desk, model: Model) -> Desk:
    """The desk without scores and scribbles: what is drawn next is all that is known."""
    return replace(_cleared(desk, model.classes, None), scores=None, source="scribbles", seconds=None)


def with_scribbles(desk: Desk, strokes: Any) -> Desk:
    """The desk with the strokes that a browser sent in the place of those before.

    Args:
        strokes: [{"label": class id, "width": pixels, "points": [[x, y], …]}, …] in pixels of `desk.photo`; later ones
            lie over earlier ones, and those of label `VOID` erase.
    Raises: ValueError: if they are anything else.
    """
    picture = Image.new("L", desk.photo.shape[1::-1], VOID)
    pen = ImageDraw.Draw(picture)
    if not isinstance(strokes, list):
        raise ValueError(f"expected a list of scribbles, not {strokes!r:.80}")
    if len(strokes) > MOST_STROKES:
        raise ValueError(f"a photo takes at most {MOST_STROKES} scribbles: undo some, or clear them")
    checked = [_checked(stroke, desk.classes.num_classes) for stroke in strokes]
    if sum(len(points) for *_, points in checked) > MOST_POINTS_TOGETHER:
        raise ValueError(f"scribbles have at most {MOST_POINTS_TOGETHER} points together: undo some, or clear them")
    for label, width, points in checked:
        pen.line(points, fill=label, width=width)
        for x, y in points:  # lines have no round ends and corners
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=label)
    return replace(desk, scribbles=np.asarray(picture))


def refined(desk: Desk, parameters: CRFParameters | CRF) -> Refined:
    """What a CRF makes of the desk.

    Raises:
        ValueError: if there is nothing to refine, the CRF is for other classes, or would take minutes.
        MemoryError: if there is not enough memory.
    """
    scores, ids = desk.evidence()
    if isinstance(parameters, CRFParameters) and parameters.filter == "exact" and scores[0].size > MOST_EXACT_PIXELS:
        raise ValueError(
            f"filter='exact' compares all pairs of pixels, and takes minutes for {scores.shape[2]}×{scores.shape[1]}; "
            f"on this page a photo may have {MOST_EXACT_PIXELS} pixels for it"
        )
    start = time.perf_counter()
    probabilities, activity = refine(scores, desk.photo, parameters, return_activity=True)
    seconds = time.perf_counter() - start
    labels = ids[probabilities.argmax(axis=0)]
    return Refined(desk, ids, probabilities, labels, activity, seconds)


def energies(desk: Desk, parameters: CRFParameters | CRF) -> list[float]:
    """What the solver descends on, before the first iteration and after each one."""
    scores, _ = desk.evidence()
    crf = crf_of(parameters).active
    terms: list[Any] = build_terms(crf, guide_of(scores, desk.photo, scores.shape), None, scores.dtype, None)
    matrix, solver = crf.compatibility, crf.solver
    if isinstance(solver, FrankWolfe):
        steps = frank_wolfe_trace(scores, terms, solver, compatibility=matrix)
    else:
        iterations, damping = solver.iterations, solver.damping
        steps = mean_field_trace(scores, terms, iterations=iterations, compatibility=matrix, damping=damping)
    return [value for _, value in steps]


def crf_of_model(model: Model) -> CRF | None:
    """The CRF that was trained with the model's network, if there is one."""
    return None if model.segmenter.crf is None else crf_of_layer(model.segmenter.crf)


def visible(labels: NDArray[np.integer]) -> list[tuple[int, float]]:
    """The classes that one can see in labels (h, w), and the share of the pixels that each has; largest first."""
    shares = np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID] / labels.size
    found = np.flatnonzero(shares >= VISIBLE)
    return [(int(label), float(shares[label])) for label in found[np.argsort(-shares[found], kind="stable")]]


def _cleared(desk: Desk, classes: ClassSet, scores: NDArray[np.float32] | None) -> Desk:
    """The desk without scribbles, and with a bright colour for each class: different ones for those that are there."""
    first = [] if scores is None else [label for label, _ in visible(scores.argmax(axis=0))]
    order = [*first, *(label for label in range(classes.num_classes) if label not in first)]
    painted = [label for label in order if classes.names[label].lower() != BACKGROUND]
    palette = np.zeros((classes.num_classes, 3), np.uint8)
    for place, label in enumerate(painted):
        palette[label] = CLEAR_COLOURS[place % len(CLEAR_COLOURS)]
    nothing = np.full(desk.photo.shape[:2], VOID, np.uint8)
    return replace(desk, classes=ClassSet(classes.names, palette), scribbles=nothing)


def _checked(stroke: Any, num_classes: int) -> tuple[int, int, list[tuple[float, float]]]:
    """The label, width and points of a stroke."""
    try:
        label, width, points = stroke["label"], stroke["width"], stroke["points"]
        places = [(float(x), float(y)) for x, y in points[: MOST_POINTS + 1]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("a scribble has a label, a width and points") from error
    are_numbers = all(math.isfinite(each) and abs(each) <= 10 * LONGEST_SIDE for point in places for each in point)
    if not 0 < len(places) <= MOST_POINTS or not are_numbers:
        raise ValueError(f"a scribble has 1 to {MOST_POINTS} points on the photo")
    if type(label) is not int or not (0 <= label < num_classes or label == VOID):
        raise ValueError(f"a scribble is of class {label!r}; there are 0 to {num_classes - 1}")
    if type(width) is not int or not 1 <= width <= WIDEST_STROKE:
        raise ValueError(f"a scribble is {width!r} pixels wide; expected 1 to {WIDEST_STROKE}")
    return label, width, places
