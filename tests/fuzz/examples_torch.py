"""A strategy for each property of calls that take tensors, channels first."""

from typing import Any

from examples import EXAMPLES, call
from hypothesis import strategies as st
from strategies import (
    NORMALIZATIONS,
    TENSOR_TYPES,
    TENSORS,
    arrays,
    classes,
    counts,
    grids,
    image_fills,
    logit_fills,
    mask_fills,
    odd,
    once_in,
    parameter_fields,
    rarely,
    share_fills,
    some_of,
    spacings,
    threads,
    usually,
    words,
)


@st.composite
def pair(
    draw: Any, scores: Any = logit_fills, names: tuple[str, str] = ("logits", "image"), smaller: bool = False
) -> dict[str, Any]:
    grid = draw(grids())
    batch = draw(st.sampled_from([1, 1, 2]))
    low = [max(1, length // draw(st.integers(1, 4))) if length and smaller else length for length in grid]
    first = draw(arrays([batch, draw(classes), *low], scores, TENSOR_TYPES, forms=TENSORS))
    second = draw(
        arrays(
            [draw(usually(batch, (3,))), draw(st.sampled_from([3, 1, 4])), *grid],
            image_fills,
            TENSOR_TYPES,
            forms=TENSORS,
        )
    )
    for each in (first, second):
        each["form"] = "tensor" if each["form"] == "array" and not draw(once_in(20)) else each["form"]
    described = dict(zip(names, (first, second), strict=True))
    return {"arrays": described, "grid": [batch, *grid]}


@call
def torch_mean_field(draw: Any) -> dict[str, Any]:
    example = draw(pair())
    if draw(once_in(6)):
        example["arrays"]["mask"] = draw(arrays(example["grid"], mask_fills, TENSOR_TYPES, forms=TENSORS))
    fields = {"spacing": spacings, "upsampling": words("joint-bilateral", "bilinear"), "threads": threads}
    short = draw(some_of({**parameter_fields, "gradient": words("unrolled", "implicit")}, 4))
    return {**example, "parameters": short, "options": draw(some_of(fields, 1))}


@call
def torch_layer(draw: Any) -> dict[str, Any]:
    fields = {
        name: parameter_fields[name]
        for name in (
            "theta_alpha",
            "theta_beta",
            "theta_gamma",
            "normalization",
            "spatial",
            "damping",
            "filter",
            "image_range",
        )
    }
    fields |= {
        "num_iterations": counts,
        "weights": words("full", "per-class", "scalar"),
        "learn_theta": rarely(st.booleans(), odd),
        "compatibility": words("full", "per-class", "scalar"),
        "return_probabilities": rarely(st.booleans(), odd),
    }
    return {**draw(pair()), "options": draw(some_of(fields, 4))}


@call
def gaussian_filter(draw: Any) -> dict[str, Any]:
    example = draw(pair(names=("values", "features")))
    fields = {
        "normalization": words(*NORMALIZATIONS),
        "filter": words("lattice", "exact"),
        "threads": threads,
        "neighbour_rounds": rarely(st.integers(0, 1), odd),
    }
    if draw(once_in(6)):
        example["arrays"]["mask"] = draw(arrays(example["grid"], mask_fills, TENSOR_TYPES, forms=TENSORS))
    return {**example, "options": draw(some_of(fields, 3))}


@call
def torch_upsample(draw: Any) -> dict[str, Any]:
    return {
        **draw(pair(names=("scores", "image"), smaller=True)),
        "options": draw(some_of({"threads": threads, "exact": st.booleans()}, 2)),
    }


@call
def dense_crf_loss(draw: Any) -> dict[str, Any]:
    example = draw(pair(st.one_of(share_fills, st.just(["constant", 1.0])), ("probabilities", "image")))
    fields = {"spacing": spacings, "threads": threads, "parameters": words("photos", "deeplab")}
    return {**example, "options": draw(some_of(fields, 1))}


EXAMPLES["gated_crf_loss"] = EXAMPLES["normalized_cut_loss"] = EXAMPLES["dense_crf_loss"]
