"""The page, laid out in Gradio. What it shows is computed elsewhere; this file says which part of it goes where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.components.imageslider import SliderData
from gradio.data_classes import ImageData
from PIL import Image

from crfrnn.cli.failures import EXPECTED, OUT_OF_MEMORY
from crfrnn.crf import CRF
from crfrnn.demo import EXAMPLES, read_example
from crfrnn.models import Model
from crfrnn.parameters import DEFAULT_PRESET, PRESETS, CRFParameters, preset
from crfrnn.web import desk as desks
from crfrnn.web import drawn, uploads
from crfrnn.web.controls import Control, adjustable, adjusted, controls, values_of
from crfrnn.web.desk import Desk
from crfrnn.web.notices import noticed
from crfrnn.web.visits import Visits

TITLE = "crfrnn: a network, and a CRF behind it"
WORDS = "The network says roughly what is where; the CRF moves the borders to the edges of the photo."
OWN = "trained with the network"
"""The word for the CRF of the model, among the names of presets."""
TRAINED = f"*{OWN}*: its weights stay as they were learned. A preset has a number for each."
SOURCES = {"network": "network", "score file": "file", "scribbles alone": "scribbles"}
"""Where scores come from, as users read it."""
SCORES = "(classes, height, width) in .npy or .npz, of the size of the photo or smaller; or labels (height, width)"
AUTOMATIC = "as the file says"
SCRIBBLES, ITERATIONS = "Scribbles", "Iterations"
"""Names of tabs."""
DRAW = "draw scribbles of at least two classes"
AT_ONCE = 2
"""Computations that run side by side; others wait."""
MOST_WAITING = 32
EXAMPLE_SIDE = 128

Update = dict[Any, Any]
"""What becomes of components of Gradio."""


def spoken(handler: Callable[..., Update]) -> Callable[..., Any]:
    """What the package raises for bad input becomes a message on the page; what changes nothing leaves it as it is."""

    @wraps(handler)
    def guarded(*arguments: Any) -> Any:
        try:
            return handler(*arguments) or gr.skip()
        except EXPECTED as error:
            words = str(error)
            if isinstance(error, MemoryError) and words in ("", "std::bad_alloc"):
                words = OUT_OF_MEMORY
            raise gr.Error(words, duration=None, print_exception=False) from None

    return guarded


class Page:
    """The page for a model. What users work on is kept in `visits`, by the word that Gradio has for each open page.

    Attributes:
        blocks: What Gradio serves.
    """

    def __init__(self, model: Model, visits: Visits) -> None:
        self.model, self.visits = model, visits
        self.own = desks.crf_of_model(model)
        self.starts = [OWN, *PRESETS] if self.own else list(PRESETS)
        self.known = {each.name: each for each in controls(self.own)}
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            gr.Markdown(f"## {TITLE}\n{WORDS}")
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    self._lay_inputs()
                with gr.Column(scale=2, min_width=320):
                    self._lay_results()
                with gr.Column(scale=1, min_width=260):
                    self._lay_parameters()
            self._connect()
        for each in self.blocks.blocks.values():
            each.async_move_resource_to_block_cache = _refuse_files
        self.blocks.queue(default_concurrency_limit=AT_ONCE, max_size=MOST_WAITING, api_open=False)

    def _lay_inputs(self) -> None:
        self.photo = _picker("A photo: choose or drop one", uploads.PHOTO_SUFFIXES, "photo", _examples())
        self.source = gr.Radio(list(SOURCES.items()), value="network", label="Scores from", elem_id="source")
        with gr.Accordion("Scores of your own, or labels", open=False, elem_id="own-scores"):
            gr.Markdown(SCORES)
            self.kind = gr.Dropdown([AUTOMATIC, *uploads.INPUTS], value=AUTOMATIC, label="The file holds")
            self.scores = _picker("Scores: choose or drop a file", uploads.SCORE_SUFFIXES, "scores", "")

    def _lay_results(self) -> None:
        self.slider = gr.ImageSlider(
            label="without the CRF | with it", interactive=False, buttons=["fullscreen"], elem_id="slider"
        )
        self.slider.postprocess = _held
        self.legend = gr.HTML(elem_id="legend")
        self.times = gr.HTML(elem_id="times")
        with gr.Tabs() as self.tabs:
            with gr.Tab(SCRIBBLES):
                self.canvas = gr.HTML(
                    html_template=_text("scribbles.html"),
                    js_on_load=_text("scribbles.js"),
                    apply_default_css=False,
                    elem_id="scribbles",
                )
            with gr.Tab(ITERATIONS):
                self.plot = gr.Plot(show_label=False, elem_id="plot")
                self.worked = gr.HTML(elem_id="activity")
        self.save = gr.Button("Download labels", elem_id="save")
        self.download = gr.HTML(html_template="", js_on_load=_text("download.js"))
        self.tab = gr.State(SCRIBBLES)

    def _lay_parameters(self) -> None:
        self.start = gr.Dropdown(self.starts, value=self.starts[0], label="CRF to start from", elem_id="start")
        if self.own:
            gr.Markdown(TRAINED)
        start = self._start(self.starts[0])
        common = [each for each in self.known.values() if each.is_common]
        rarer = [each for each in self.known.values() if not each.is_common]
        self.controls = {each.name: _component(each, start) for each in common}
        with gr.Accordion("More parameters", open=False, elem_id="more"):
            self.controls |= {each.name: _component(each, start) for each in rarer}

    def _connect(self) -> None:
        parameters = [self.start, *self.controls.values()]
        results = [self.slider, self.legend, self.times]
        everything = [*results, self.canvas, self.source, *parameters]
        common: dict[str, Any] = {"concurrency_id": "crf", "api_visibility": "private", "show_progress": "minimal"}
        live = {**common, "trigger_mode": "always_last", "show_progress": "hidden"}
        moves = [each.input for each in self.controls.values()]
        for event in (
            self.photo.sent(self.opened, [self.source, *parameters], everything, **common),
            self.photo.example(self.example, [self.source, *parameters], everything, **common),
            self.scores.sent(self.scored, [self.kind, *parameters], everything, **common),
            self.source.input(self.sourced, [self.source, *parameters], everything, **common),
            self.canvas.drawn(self.scribbled, parameters, results, **live),
            self.start.input(self.started, self.start, [*results, *self.controls.values()], **common),
            gr.on(moves, self.moved, parameters, results, **live),
            self.tabs.select(self.turned, None, self.tab, api_visibility="private", concurrency_limit=None),
        ):
            event.success(self.watched, [self.tab, *parameters], [self.plot, self.worked], **common)
        self.save.click(self.saved, parameters, self.download, **common)
        self.blocks.unload(self.left)

    @spoken
    def opened(self, event: gr.EventData, request: gr.Request, wanted: str, *shown: Any) -> Update:
        """A photo was sent."""
        name = uploads.plain_name(_sent(event, "name"))
        photo = uploads.photo_of(uploads.content_of(_sent(event, "data"), name), name)
        return self._laid(request, desks.opened_desk(name, photo, self.model, _source(wanted)), shown)

    @spoken
    def example(self, event: gr.EventData, request: gr.Request, wanted: str, *shown: Any) -> Update:
        """An example was chosen."""
        name = _sent(event, "name")
        if name not in EXAMPLES:
            raise ValueError(f"there is no example {name!r:.80}; there are {', '.join(EXAMPLES)}")
        desk = desks.opened_desk(f"{name}.png", read_example(name), self.model, _source(wanted))
        return self._laid(request, desk, shown)

    @spoken
    def scored(self, event: gr.EventData, request: gr.Request, kind: Any, *shown: Any) -> Update:
        """A file with scores was sent."""
        desk = self._desk(request)
        name = uploads.plain_name(_sent(event, "name"))
        content = uploads.content_of(_sent(event, "data"), name)
        scores = uploads.scores_of(content, name, None if kind == AUTOMATIC else kind, desk.photo, desk.size)
        return self._laid(request, desks.with_scores(desk, scores), shown)

    @spoken
    def sourced(self, request: gr.Request, wanted: str, *shown: Any) -> Update:
        """Other scores were chosen."""
        desk = self._desk(request)
        if wanted == "file":
            if desk.source == "file":
                return {}
            gr.Info("open “Scores of your own, or labels”, and choose a file")
            return {self.source: desk.source}
        change = desks.with_network if wanted == "network" else desks.with_scribbles_alone
        return self._laid(request, change(desk, self.model), shown)

    @spoken
    def scribbled(self, event: gr.EventData, request: gr.Request, *shown: Any) -> Update:
        """A scribble was drawn, or taken back."""
        desk = desks.with_scribbles(self._desk(request), _sent(event, "strokes"))
        self.visits.keep(_user(request), desk)
        return self._results(desk, shown)

    @spoken
    def started(self, request: gr.Request, chosen: str) -> Update:
        """Another preset was chosen, or the CRF of the model."""
        values = self._values(chosen)
        return self._set(values, chosen) | self._results(self._desk(request), [chosen, *values.values()])

    @spoken
    def moved(self, request: gr.Request, *shown: Any) -> Update:
        """A parameter was changed."""
        return self._results(self._desk(request), shown)

    @spoken
    def watched(self, request: gr.Request, tab: str, *shown: Any) -> Update:
        """Something happened; energy and activity, which take longer, are worked out if they are looked at."""
        if tab != ITERATIONS:
            return {}
        desk, crf = self._desk(request), self._parameters(shown)
        activity = desks.refined(desk, crf).activity
        picture = ""
        if activity.iterations:
            address = drawn.inline(activity.picture(desk.photo).image)
            picture = f'<img alt="pixels that were worked out in each iteration" src="{address}">'
        return {self.plot: drawn.plots(desks.energies(desk, crf), activity), self.worked: picture}

    @spoken
    def saved(self, request: gr.Request, *shown: Any) -> Update:
        """The labels are wanted as a file."""
        return {self.download: drawn.downloaded(desks.refined(self._desk(request), self._parameters(shown)))}

    def turned(self, event: gr.SelectData) -> str:
        """Another tab was opened."""
        return str(event.value)

    def left(self, request: gr.Request) -> None:
        """A page was closed: nothing of it stays."""
        self.visits.forget(_user(request))
        self.blocks.state_holder.session_data.pop(request.session_hash, None)

    def _desk(self, request: gr.Request) -> Desk:
        return self.visits.desk(_user(request))

    def _start(self, chosen: str) -> CRFParameters | CRF:
        """What a choice of `start` stands for."""
        return self.own if chosen == OWN and self.own is not None else preset(chosen)

    def _parameters(self, shown: Sequence[Any]) -> CRFParameters | CRF:
        """What `start` and the controls show, as parameters."""
        chosen, *values = shown
        return adjusted(self._start(chosen), dict(zip(self.controls, values, strict=True)), self.known)

    def _values(self, chosen: str) -> dict[str, Any]:
        """What the controls show at the beginning of a choice."""
        values = values_of(self._start(chosen))
        return {name: self.known[name].shown(values.get(name)) for name in self.controls}

    def _set(self, values: dict[str, Any], chosen: str) -> Update:
        """The controls at these values; those that the choice does not have are not shown."""
        free = adjustable(self._start(chosen))
        return {each: gr.update(value=values[name], visible=name in free) for name, each in self.controls.items()}

    def _laid(self, request: gr.Request, desk: Desk, shown: Sequence[Any]) -> Update:
        """What is shown of a desk with new scores, whose classes may be others. The model's CRF is for its own."""
        chosen, *values = shown
        fitting = self.starts if desk.source == "network" else list(PRESETS)
        update: Update = {self.canvas: drawn.canvas(desk), self.source: desk.source}
        if chosen not in fitting:
            chosen = DEFAULT_PRESET
            begun = self._values(chosen)
            values = list(begun.values())
            update |= self._set(begun, chosen)
        update[self.start] = gr.update(choices=fitting, value=chosen)
        update |= self._results(desk, [chosen, *values])
        self.visits.keep(_user(request), desk)
        return update

    def _results(self, desk: Desk, shown: Sequence[Any]) -> Update:
        """What is shown of a desk."""
        if desk.scores is None and not desk.is_drawn:
            photo = drawn.tinted(desk, desk.scribbles)
            return {self.slider: (photo, photo), self.legend: "", self.times: DRAW}
        with noticed() as notices:
            found = desks.refined(desk, self._parameters(shown))
        pictures = drawn.tinted(desk, desk.before()), drawn.tinted(desk, found.labels)
        return {self.slider: pictures, self.legend: drawn.legend(found), self.times: drawn.times(found, notices)}


def _held(pictures: tuple[str, str] | None) -> Any:
    """Two addresses that hold their pictures, for Gradio: it would write pictures to files."""
    return None if pictures is None else SliderData(root=tuple(ImageData(url=each) for each in pictures))


async def _refuse_files(name: object) -> str:
    """No value of the page is a file. Gradio would fetch any address that a program names as one."""
    raise gr.Error(f"the page takes no file by name: {name!r:.80}", print_exception=False)


def _user(request: gr.Request) -> str:
    return str(request.session_hash)


def _sent(event: gr.EventData, name: str) -> Any:
    """What the page's own programs send beside an event."""
    data = event._data
    return data.get(name) if isinstance(data, dict) else None


def _source(wanted: str) -> Any:
    """Where the scores of a new photo come from: those of a file were for the last one."""
    return "scribbles" if wanted == "scribbles" else "network"


def _component(control: Control, start: CRFParameters | CRF) -> Any:
    """A control of Gradio, at the value that it starts from."""
    value = control.shown(values_of(start).get(control.name))
    common = {
        "label": control.name,
        "info": control.help,
        "elem_id": control.name,
        "interactive": True,
        "visible": control.name in adjustable(start),
    }
    if control.choices:
        return gr.Dropdown(list(control.choices), value=value, **common)
    if control.step is None:
        return gr.Textbox(value, max_lines=1, **common)
    return gr.Slider(control.low, control.high, value, step=control.step, **common)


def _picker(words: str, suffixes: Sequence[str], label: str, more: str) -> Any:
    template = _text("picker.html").format(words=words, suffixes=",".join(suffixes), label=label, more=more)
    return gr.HTML(
        html_template=template,
        js_on_load=_text("picker.js"),
        apply_default_css=False,
        elem_id=f"{label}-picker",
        most=uploads.MOST_BYTES,
    )


def _examples() -> str:
    """Buttons with the examples."""
    buttons = []
    for name in EXAMPLES:
        picture = Image.fromarray(read_example(name))
        picture.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        buttons.append(f'<button data-example="{name}"><img alt="{name}" src="{drawn.inline(picture)}"></button>')
    return f'<div class="examples">{"".join(buttons)}</div>'


def _text(name: str) -> str:
    return files("crfrnn.web").joinpath(name).read_text(encoding="utf-8")
