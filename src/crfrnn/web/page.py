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
from crfrnn.web.visits import Visits

TITLE = "crfrnn: a network, and a CRF behind it"
OWN = "trained with the network"
"""The word for the CRF of the model, among the names of presets."""
SOURCES = {"network": "network", "file": "score file", "scribbles": "scribbles alone"}
AUTOMATIC = "as the file says"
ITERATIONS = "Iterations"
AT_ONCE = 2
"""Computations that run side by side; others wait."""
MOST_WAITING = 32
EXAMPLE_SIDE = 128
PICKER = """<div class="picker"><label>{words}<br><input type="file" accept="{suffixes}" aria-label="{label}"></label>
<div class="note"></div>{more}</div>"""
SCRIBBLES = """<div class="scribbles"><div class="tools">
<span><i class="brush"></i><select aria-label="class to draw"></select></span>
<label>width <input type="range" min="2" max="40" value="8" aria-label="width of scribbles"></label>
<button data-act="undo">undo</button><button data-act="clear">clear</button></div><canvas width="1" height="1"></canvas></div>"""
DOWNLOAD = """watch("value", () => {
  if (!props.value) return;
  const link = document.createElement("a");
  link.href = props.value.content;
  link.download = props.value.name;
  link.click();
});"""


class BeforeAfter(gr.ImageSlider):  # type: ignore[misc]  # Gradio is not always installed
    """Two pictures with a slider between them, which come inside the page and not as files on the server."""

    is_template = True

    def postprocess(self, value: tuple[str, str] | None) -> Any:
        """Addresses that hold the pictures."""
        return None if value is None else SliderData(root=tuple(ImageData(url=each) for each in value))


def page(model: Model, visits: Visits) -> gr.Blocks:
    """The page for a model, whose users' work is kept in `visits`."""
    own = desks.crf_of_model(model)
    known = {each.name: each for each in controls(own)}

    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"## {TITLE}\nThe network says roughly what is where; the CRF moves the borders to the photo's edges.")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                picker = _picker("A photo: choose or drop one", uploads.PHOTO_SUFFIXES, "photo", _examples())
                source = gr.Radio(
                    [(words, name) for name, words in SOURCES.items()], value="network", label="Scores from"
                )
                with gr.Accordion("Scores of your own, or labels", open=False):
                    gr.Markdown("(classes, height, width) in .npy or .npz, of the photo's size or smaller")
                    kind = gr.Dropdown([AUTOMATIC, *uploads.INPUTS], value=AUTOMATIC, label="The file holds")
                    score_picker = _picker("Scores: choose or drop a file", uploads.SCORE_SUFFIXES, "scores", "")
            with gr.Column(scale=2, min_width=320):
                with gr.Tabs() as tabs:
                    with gr.Tab("Before and after"):
                        slider = BeforeAfter(
                            label="without the CRF | with it", interactive=False, buttons=["fullscreen"], elem_id="slider"
                        )
                    with gr.Tab("Scribbles"):
                        scribbles = gr.HTML(
                            None, html_template=SCRIBBLES, js_on_load=_text("scribbles.js"), elem_id="scribbles"
                        )
                    with gr.Tab(ITERATIONS):
                        plot = gr.Plot(show_label=False, elem_id="plot")
                        worked = gr.HTML(elem_id="activity")
                legend = gr.HTML(elem_id="legend")
                times = gr.HTML(elem_id="times")
                save = gr.Button("Download labels", elem_id="save")
                download = gr.HTML(None, html_template="", js_on_load=DOWNLOAD)
            with gr.Column(scale=1, min_width=260):
                names = [OWN, *PRESETS] if own else list(PRESETS)
                start = gr.Dropdown(names, value=names[0], label="CRF to start from", elem_id="start")
                given = _start(names[0], own)
                sliders = [_component(each, given) for each in known.values() if each.is_common]
                with gr.Accordion("More parameters", open=False):
                    sliders += [_component(each, given) for each in known.values() if not each.is_common]
        open_tab = gr.State(None)

        order = [each.label for each in sliders]
        inputs = [start, *sliders]
        results = [slider, legend, times]

        def parameters(values: Sequence[Any]) -> CRFParameters | CRF:
            chosen, *shown = values
            return adjusted(_start(chosen, own), dict(zip(order, shown, strict=True)), known)

        def result(desk: Desk, values: Sequence[Any]) -> dict[Any, Any]:
            """What is shown of a desk."""
            if desk.scores is None and (desk.scribbles == desks.VOID).all():
                photo = drawn.tinted(desk, desk.scribbles)
                return {slider: (photo, photo), legend: "", times: "draw scribbles of at least two classes"}
            found = desks.refined(desk, parameters(values))
            pictures = drawn.tinted(desk, desk.before()), drawn.tinted(desk, found.labels)
            return {slider: pictures, legend: drawn.legend(found), times: drawn.times(found)}

        def laid(user: str, desk: Desk, values: Sequence[Any]) -> dict[Any, Any]:
            """What is shown of a desk with new scores, whose classes may be others. The model's CRF is for its own."""
            visits.keep(user, desk)
            fits = desk.source == "network"
            more: dict[Any, Any] = {scribbles: drawn.canvas(desk), source: desk.source}
            offered = names if fits else list(PRESETS)
            chosen, *shown = values
            if chosen not in offered:
                chosen = DEFAULT_PRESET
                shown = [known[name].shown(values_of(preset(chosen))[name]) for name in order]
                more |= moved(chosen)
            more[start] = gr.Dropdown(offered, value=chosen)
            return result(desk, [chosen, *shown]) | more

        def moved(chosen: str) -> dict[Any, Any]:
            """The sliders at what they start from."""
            begun = _start(chosen, own)
            values, free = values_of(begun), adjustable(begun)
            return {
                each: gr.update(value=known[name].shown(values.get(name)), interactive=name in free)
                for name, each in zip(order, sliders, strict=True)
            }

        @spoken
        def opened(event: gr.EventData, request: gr.Request, wanted: str, *values: Any) -> dict[Any, Any]:
            name = uploads.plain_name(_sent(event, "name"))
            photo = uploads.photo_of(uploads.content_of(_sent(event, "data"), name), name)
            return laid(_user(request), desks.opened_desk(name, photo, model, _source(wanted)), values)

        @spoken
        def example(event: gr.EventData, request: gr.Request, wanted: str, *values: Any) -> dict[Any, Any]:
            name = _sent(event, "name")
            if name not in EXAMPLES:
                raise ValueError(f"there is no example {name!r}; there are {', '.join(EXAMPLES)}")
            desk = desks.opened_desk(f"{name}.png", read_example(name), model, _source(wanted))
            return laid(_user(request), desk, values)

        @spoken
        def scored(event: gr.EventData, request: gr.Request, holds: str, *values: Any) -> dict[Any, Any]:
            desk = visits.desk(_user(request))
            name = uploads.plain_name(_sent(event, "name"))
            content = uploads.content_of(_sent(event, "data"), name)
            read = uploads.scores_of(content, name, None if holds == AUTOMATIC else holds, desk.photo, desk.size)
            return laid(_user(request), desks.with_scores(desk, read), values)

        @spoken
        def sourced(request: gr.Request, wanted: str, *values: Any) -> dict[Any, Any]:
            desk = visits.desk(_user(request))
            if wanted == "file" and desk.source != "file":
                gr.Info("open “Scores of your own, or labels”, and choose a file")
                return {source: desk.source}
            change = {"network": desks.with_network, "scribbles": desks.with_scribbles_alone}.get(wanted)
            return {} if change is None else laid(_user(request), change(desk, model), values)

        @spoken
        def scribbled(event: gr.EventData, request: gr.Request, *values: Any) -> dict[Any, Any]:
            desk = desks.with_scribbles(visits.desk(_user(request)), _sent(event, "strokes"))
            visits.keep(_user(request), desk)
            return result(desk, values)

        @spoken
        def started(request: gr.Request, chosen: str) -> dict[Any, Any]:
            changes = moved(chosen)
            shown = [changes[each]["value"] for each in sliders]
            return changes | result(visits.desk(_user(request)), [chosen, *shown])

        @spoken
        def changed(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return result(visits.desk(_user(request)), values)

        @spoken
        def watched(request: gr.Request, tab: str | None, *values: Any) -> dict[Any, Any]:
            if tab != ITERATIONS:
                return {}
            desk, crf = visits.desk(_user(request)), parameters(values)
            found = desks.refined(desk, crf)
            picture = found.activity.picture(desk.photo).image if found.activity.iterations else None
            return {
                plot: drawn.plots(desks.energies(desk, crf), found.activity),
                worked: "" if picture is None else f'<img alt="worked out" src="{drawn.inline(picture)}">',
            }

        @spoken
        def saved(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return {download: drawn.downloaded(desks.refined(visits.desk(_user(request)), parameters(values)))}

        def turned(event: gr.SelectData) -> str:
            return str(event.value)

        def left(request: gr.Request) -> None:
            visits.forget(_user(request))
            blocks.state_holder.session_data.pop(request.session_hash, None)

        common: dict[str, Any] = {"concurrency_id": "crf", "api_visibility": "private", "show_progress": "minimal"}
        live = {**common, "trigger_mode": "always_last", "show_progress": "hidden"}
        laid_out = [*results, scribbles, source, *inputs]
        events = [
            picker.sent(opened, [source, *inputs], laid_out, **common),
            picker.example(example, [source, *inputs], laid_out, **common),
            score_picker.sent(scored, [kind, *inputs], laid_out, **common),
            source.input(sourced, [source, *inputs], laid_out, **common),
            scribbles.drawn(scribbled, inputs, results, **live),
            start.input(started, start, [*results, *sliders], **common),
            gr.on([each.input for each in sliders], changed, inputs, results, **live),
            tabs.select(turned, None, open_tab, api_visibility="private", queue=False),
        ]
        for each in events:
            each.then(watched, [open_tab, *inputs], [plot, worked], **common)
        save.click(saved, inputs, download, **common)
        blocks.unload(left)
    for each in blocks.blocks.values():
        each.async_move_resource_to_block_cache = _refuse_files
    return blocks.queue(default_concurrency_limit=AT_ONCE, max_size=MOST_WAITING, api_open=False)


def spoken(handler: Callable[..., dict[Any, Any]]) -> Callable[..., Any]:
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


def _start(chosen: str, own: CRF | None) -> CRFParameters | CRF:
    return own if chosen == OWN and own is not None else preset(chosen)


def _component(control: Control, given: CRFParameters | CRF) -> Any:
    """A control of Gradio, at the value that it starts from."""
    value = control.shown(values_of(given).get(control.name))
    common = {
        "label": control.name,
        "info": control.help,
        "elem_id": control.name,
        "interactive": control.name in adjustable(given),
    }
    if control.choices:
        return gr.Dropdown(list(control.choices), value=value, **common)
    if control.step is None:
        return gr.Textbox(value, max_lines=1, **common)
    return gr.Slider(control.low, control.high, value, step=control.step, **common)


def _picker(words: str, suffixes: Sequence[str], label: str, more: str) -> Any:
    template = PICKER.format(words=words, suffixes=",".join(suffixes), label=label, more=more)
    return gr.HTML(
        None, html_template=template, js_on_load=_text("picker.js"), elem_id=f"{label}-picker", most=uploads.MOST_BYTES
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
