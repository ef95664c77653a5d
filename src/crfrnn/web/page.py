"""The page, laid out in Gradio. What it shows is computed elsewhere; this file says which part of it goes where."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib.resources import files
from typing import Any, NoReturn

import gradio as gr
from gradio.components.imageslider import SliderData
from gradio.data_classes import ImageData
from gradio_client.utils import is_file_obj_with_meta, traverse
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
from crfrnn.web.guard import note_fault
from crfrnn.web.notices import noticed
from crfrnn.web.turns import Turns
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
CHOOSE_SCORES = "choose a file with scores"
DRAW = "draw scribbles of at least two classes"
NOTES = ("photo", "scores")
"""What shows plain words; other places show HTML."""
AGAIN = "() => document.getElementById('again').click()"
"""Asks for results."""
EXAMPLE_SIDE = 128

Update = dict[Any, Any]
"""What becomes of components of Gradio."""


def spoken(line: str, place: str) -> Callable[[Callable[..., Update]], Callable[..., Any]]:
    """Makes a handler wait for its turn; what the package raises for bad input becomes a message on the page.

    Args:
        line: Requests of one page in the same line are answered one after the other.
        place: The attribute of `Page` where the message stands. Of an error that Gradio answers beside its queue,
            browsers show no words.
    """

    def made(handler: Callable[..., Update]) -> Callable[..., Any]:
        @wraps(handler)
        async def guarded(page: Page, *arguments: Any) -> Any:
            user = next(_user(each) for each in arguments if isinstance(each, gr.Request))
            try:
                return await page.turns.take(f"{user} {line}", partial(handler, page, *arguments)) or gr.skip()
            except EXPECTED as error:
                words = _words(error)
                return {getattr(page, place): words if place in NOTES else drawn.doubt(words)}

        return guarded

    return made


class Page:
    """The page for a model. What users work on is kept in `visits`, by the word that Gradio has for each open page.

    All results come from one event, `moved`, whatever was done, and are a function of what the page shows when it is
    sent: of moves that come while one is answered, Gradio sends the last one. It drops what waits behind an answer that
    failed, so `moved` says in words what is wrong. Requests are answered directly, not through Gradio's queue: browsers
    may close its stream of answers just when the server has promised one more in it, and wait for that one forever.

    Attributes:
        blocks: What Gradio serves.
    """

    def __init__(self, model: Model, visits: Visits) -> None:
        self.model, self.visits, self.turns = model, visits, Turns()
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
        self.blocks.preprocess_data = _checked(self.blocks.preprocess_data)
        self.blocks.queue(api_open=False)

    def _lay_inputs(self) -> None:
        self.photo = _picker("A photo: choose or drop one", uploads.PHOTO_SUFFIXES, "photo", _examples())
        self.source = gr.Radio(list(SOURCES.items()), value="network", label="Scores from", elem_id="source")
        with gr.Accordion("Scores of your own, or labels", open=False, elem_id="own-scores") as self.own_scores:
            gr.Markdown(SCORES)
            self.kind = gr.Dropdown([AUTOMATIC, *uploads.INPUTS], value=AUTOMATIC, label="The file holds")
            self.scores = _picker("Scores: choose or drop a file", uploads.SCORE_SUFFIXES, "scores", "")

    def _lay_results(self) -> None:
        self.slider = gr.ImageSlider(
            label="without the CRF | with it", interactive=False, buttons=["fullscreen"], elem_id="slider"
        )
        self.legend = gr.HTML(elem_id="legend")
        self.times = gr.HTML(elem_id="times")
        self.again = gr.Button(visible="hidden", elem_id="again")
        with gr.Tabs() as self.tabs:
            with gr.Tab(SCRIBBLES):
                self.canvas = gr.HTML(
                    [],
                    html_template=_text("scribbles.html"),
                    js_on_load=_text("scribbles.js"),
                    apply_default_css=False,
                    elem_id="scribbles",
                    sheet=None,
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
        # What Gradio refuses before a handler has seen it would drop the move behind it, too: all is checked there.
        direct = {"queue": False, "preprocess": False, "api_visibility": "private"}
        common: dict[str, Any] = {**direct, "trigger_mode": "multiple"}
        live = {**common, "trigger_mode": "always_last", "show_progress": "hidden"}
        parameters = list(self.controls.values())
        given = [self.source, self.start]
        laid = [self.photo, self.scores, self.own_scores, self.canvas, self.source, self.start, *parameters]
        for event in (
            self.photo.sent(self.opened, given, laid, **common),
            self.scores.sent(self.scored, [self.kind, self.start], laid, **common),
            self.source.input(self.sourced, given, laid, **common),
            self.start.input(None, self.start, parameters, js=self._started(), **common),
            self.tabs.select(self.turned, None, self.tab, **common),
        ):
            event.success(None, js=AGAIN, **common)
        moves = [self.again.click, self.canvas.input, *(each.input for each in parameters)]
        shown = [self.canvas, self.start, *parameters]
        moved = gr.on(moves, self.moved, shown, [self.slider, self.legend, self.times], postprocess=False, **live)
        moved.success(self.watched, [self.tab, *shown], [self.plot, self.worked], **live)
        self.save.click(self.saved, shown, [self.download, self.times], **common)
        self.blocks.unload(self.left)

    @spoken("desk", "photo")
    def opened(self, event: gr.EventData, request: gr.Request, wanted: str, chosen: str) -> Update:
        """A photo was sent, or an example was chosen."""
        name = uploads.plain_name(_sent(event, "name"))
        example = _sent(event, "example")
        if example is None:
            photo = uploads.photo_of(uploads.content_of(_sent(event, "data"), name), name)
        elif example in EXAMPLES:
            name, photo = f"{example}.png", read_example(example)
        else:
            raise ValueError(f"there is no example {example!r:.80}; there are {', '.join(EXAMPLES)}")
        return self._laid(request, desks.opened_desk(name, photo, self.model, _source(wanted)), chosen, name)

    @spoken("desk", "scores")
    def scored(self, event: gr.EventData, request: gr.Request, kind: Any, chosen: str) -> Update:
        """A file with scores was sent."""
        name = uploads.plain_name(_sent(event, "name"))
        desk = self.visits.desk(_user(request))
        content = uploads.content_of(_sent(event, "data"), name)
        scores = uploads.scores_of(content, name, None if kind == AUTOMATIC else kind, desk.photo, desk.size)
        return self._laid(request, desks.with_scores(desk, scores), chosen) | {self.scores: name}

    @spoken("desk", "photo")
    def sourced(self, request: gr.Request, wanted: str, chosen: str) -> Update:
        """Other scores were chosen."""
        desk = self.visits.desk(_user(request))
        if wanted not in SOURCES.values():
            raise ValueError(f"scores come from {', '.join(SOURCES.values())}, not {wanted!r:.80}")
        if wanted == desk.source:
            return {}
        if wanted == "file":
            return {self.source: desk.source, self.own_scores: gr.update(open=True), self.scores: CHOOSE_SCORES}
        change = desks.with_network if wanted == "network" else desks.with_scribbles_alone
        return self._laid(request, change(desk, self.model), chosen)

    @spoken("desk", "times")
    def moved(self, request: gr.Request, strokes: Any, *shown: Any) -> Update:
        """A parameter was changed, a scribble was drawn, or there are other scores."""
        before: Update = {}
        try:
            desk = self._desk(request, strokes)
            picture = drawn.tinted(desk, desk.before())
            before = {self.slider: _held(picture, picture), self.legend: ""}
            if desk.scores is None and not desk.is_drawn:
                return {**before, self.times: DRAW}
            with noticed() as notices:
                found = desks.refined(desk, self._parameters(shown))
        except EXPECTED as error:
            return {**before, self.times: drawn.doubt(_words(error))}
        pictures = _held(picture, drawn.tinted(desk, found.labels))
        return {self.slider: pictures, self.legend: drawn.legend(found), self.times: drawn.times(found, notices)}

    @spoken("iterations", "worked")
    def watched(self, request: gr.Request, tab: str, strokes: Any, *shown: Any) -> Update:
        """There are results; energy and activity, which take longer, are worked out if they are looked at."""
        if tab != ITERATIONS:
            return {}
        try:
            desk, crf = self._desk(request, strokes), self._parameters(shown)
            activity = desks.refined(desk, crf).activity
            trace = desks.energies(desk, crf)
        except EXPECTED:  # `moved` has said what is wrong
            return {self.plot: None, self.worked: ""}
        picture = ""
        if activity.iterations:
            address = drawn.inline(activity.picture(desk.photo).image)
            picture = f'<img alt="pixels that were worked out in each iteration" src="{address}">'
        return {self.plot: drawn.plots(trace, activity), self.worked: picture}

    @spoken("file", "times")
    def saved(self, request: gr.Request, strokes: Any, *shown: Any) -> Update:
        """The labels are wanted as a file."""
        found = desks.refined(self._desk(request, strokes), self._parameters(shown))
        return {self.download: drawn.downloaded(found)}

    async def turned(self, event: gr.EventData) -> str:
        """Another tab was opened."""
        return str(_sent(event, "value"))

    def left(self, request: gr.Request) -> None:
        """A page was closed: nothing of it stays."""
        self.visits.forget(_user(request))
        self.blocks.state_holder.session_data.pop(request.session_hash, None)

    def _desk(self, request: gr.Request, strokes: Any) -> Desk:
        """What a user works on, with the scribbles that their page shows."""
        return desks.with_scribbles(self.visits.desk(_user(request)), strokes)

    def _start(self, chosen: str) -> CRFParameters | CRF:
        """What a choice of `start` stands for."""
        if chosen not in self.starts:
            raise ValueError(f"there is no CRF {chosen!r:.80} to start from; there are {', '.join(self.starts)}")
        return self.own if chosen == OWN and self.own is not None else preset(chosen)

    def _parameters(self, shown: Sequence[Any]) -> CRFParameters | CRF:
        """What `start` and the controls show, as parameters."""
        chosen, *values = shown
        return adjusted(self._start(chosen), dict(zip(self.controls, values, strict=True)), self.known)

    def _begun(self, chosen: str) -> list[Update]:
        """The controls at the beginning of a choice; those that it does not have are not shown."""
        start = self._start(chosen)
        values, free = values_of(start), adjustable(start)
        return [
            gr.update(value=self.known[name].shown(values.get(name)), visible=name in free) for name in self.controls
        ]

    def _started(self) -> str:
        """What sets the controls when another preset is chosen, or the CRF of the model: in the browser, at once."""
        return f"(chosen) => ({json.dumps({chosen: self._begun(chosen) for chosen in self.starts})})[chosen]"

    def _laid(self, request: gr.Request, desk: Desk, chosen: str, name: str | None = None) -> Update:
        """What is shown of a desk with new scores, whose classes may be others. The model's CRF is for its own."""
        fitting = self.starts if desk.source == "network" else list(PRESETS)
        update: Update = {self.canvas: gr.update(value=[], sheet=drawn.sheet(desk)), self.source: desk.source}
        if name is not None:
            update |= {self.photo: name, self.scores: ""}
        if chosen not in fitting:
            chosen = DEFAULT_PRESET
            update |= dict(zip(self.controls.values(), self._begun(chosen), strict=True))
        update[self.start] = gr.update(choices=fitting, value=chosen)
        self.visits.keep(_user(request), desk)
        return update


def _held(*pictures: str) -> Any:
    """Two addresses that hold their pictures, as Gradio sends them: it would write pictures to files."""
    return SliderData(root=tuple(ImageData(url=each) for each in pictures)).model_dump()


def _checked(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse what the page does not send: too few values, and what names a file.

    No value of the page is a file, and Gradio would fetch the address that it names.
    """

    async def checking(block_fn: Any, inputs: list[Any], *more: Any, **named: Any) -> Any:
        if block_fn.fn is None:
            _refuse("the page does this in the browser")
        if len(inputs) < len(block_fn.inputs):
            _refuse(f"the page sends {len(block_fn.inputs)} values here, and {len(inputs)} came; reload the page")
        traverse(inputs, lambda _: _refuse("the page takes no file by name"), is_file_obj_with_meta)
        return await preprocess(block_fn, inputs, *more, **named)

    return checking


def _refuse(words: str) -> NoReturn:
    note_fault(words)
    raise gr.Error(words, print_exception=False)


def _words(error: BaseException) -> str:
    """What is wrong, as users read it."""
    words = str(error)
    return OUT_OF_MEMORY if isinstance(error, MemoryError) and words in ("", "std::bad_alloc") else words


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
        "",
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
