"""What the page shows of a desk: pictures, legend and plots, all inside the page itself, none of them in a file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.legend import full_palette, tinted_photo
from crfrnn.files.photos import JPEG_QUALITY, label_picture
from crfrnn.inference.activity import Activity
from crfrnn.inference.plots import plot_trace
from crfrnn.web.desk import Desk, Refined, visible

PLOT_SIZE = (9.0, 3.2)
"""Of the plots of energy and activity together, in inches."""


def inline(picture: Image.Image, kind: str = "JPEG") -> str:
    """A picture as an address that holds it."""
    encoded = BytesIO()
    picture.save(encoded, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def tinted(desk: Desk, labels: NDArray[np.integer]) -> str:
    """The photo tinted by class; what is `VOID` keeps its colours."""
    photo = desk.photo
    picture = np.asarray(tinted_photo(photo, labels, full_palette(desk.classes), None))
    return inline(Image.fromarray(np.where((labels == VOID)[..., np.newaxis], photo, picture)))


def legend(found: Refined) -> str:
    """The classes that one can see before or after, each with its colour and its share of the pixels after."""
    desk = found.desk
    after, before = dict(visible(found.labels)), dict(visible(desk.before()))
    rows = [
        f'<span class="class"><i style="background:{colour(desk.classes, label)}"></i>'
        f"{html.escape(desk.classes.names[label])} <small>{after.get(label, 0):.1%}</small></span>"
        for label in [*after, *(label for label in before if label not in after)]
    ]
    return f'<div class="legend">{"".join(rows)}</div>'


def colour(classes: ClassSet, label: int) -> str:
    """The colour of a class, as pages write it."""
    red, green, blue = classes.palette[label].tolist()
    return f"rgb({red}, {green}, {blue})"


def times(found: Refined, notices: Sequence[str] = ()) -> str:
    """What network and CRF took, on how many pixels and classes; and what is doubtful."""
    height, width = found.labels.shape
    desk = found.desk
    parts = [] if desk.seconds is None else [f"network {1000 * desk.seconds:.0f} ms"]
    parts += [
        f"CRF {1000 * found.seconds:.0f} ms, {found.activity.iterations} iterations",
        f"{width}×{height} pixels, {len(found.ids)} classes",
        f"{np.mean(found.labels != desk.before()):.1%} of pixels changed",
    ]
    return " · ".join(parts) + "".join(map(doubt, notices))


def doubt(words: str) -> str:
    """Words about what is doubtful or wrong."""
    return f'<p class="doubt">{html.escape(words)}</p>'


def sheet(desk: Desk) -> dict[str, Any]:
    """What is to be scribbled on: the photo, and the classes, those that one can see first."""
    height, width = desk.photo.shape[:2]
    first = [label for label, _ in visible(desk.before())]
    order = [*first, *(label for label in range(desk.classes.num_classes) if label not in first)]
    classes = [
        {"label": label, "name": desk.classes.names[label], "colour": colour(desk.classes, label)} for label in order
    ]
    return {"photo": inline(Image.fromarray(desk.photo)), "width": width, "height": height, "classes": classes}


def plots(trace: Sequence[float], activity: Activity) -> Any:
    """Energy and activity of each iteration, a figure of matplotlib."""
    from matplotlib.figure import Figure  # not pyplot, whose figures belong to the main thread

    figure = Figure(figsize=PLOT_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_trace(trace, left)
    if activity.iterations:
        activity.plot(right)
    return figure


def downloaded(found: Refined) -> dict[str, str]:
    """Name and content of the file with the labels, at the size of the photo as it came."""
    picture = label_picture(found.full_labels(), full_palette(found.desk.classes))
    return {"name": f"{found.desk.name}_labels.png", "content": inline(picture, "PNG")}
