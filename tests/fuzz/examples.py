"""A strategy for each property, of the same name: the arguments of a call as plain values."""

from typing import Any

from hypothesis import strategies as st
from strategies import (
    ARRAYS,
    FLOATS,
    FORMS,
    INTEGERS,
    NORMALIZATIONS,
    arrays,
    class_weights,
    classes,
    counts,
    deviations,
    grids,
    image_fills,
    images,
    label_fills,
    logit_fills,
    mask_fills,
    odd,
    once_in,
    parameter_fields,
    parameters,
    probability_fills,
    rarely,
    seeds,
    share_fills,
    shares,
    some_of,
    spacings,
    threads,
    usually,
    words,
)

INPUTS = ("logits", "probabilities", "labels")

EXAMPLES: dict[str, Any] = {}
"""Strategies by the name of their property."""


def call(draw_example: Any) -> Any:
    """A strategy for the property of the same name."""
    strategy = st.composite(draw_example)
    EXAMPLES[draw_example.__name__] = strategy()
    return strategy


positions = rarely(st.just([7, 5]), st.one_of(st.lists(st.integers(0, 1000), max_size=4), odd), 3)


@call
def refine(draw: Any) -> dict[str, Any]:
    grid = draw(grids())
    input = draw(usually("logits", INPUTS))
    count = draw(classes)
    shapes = [[1, *grid], grid, [*grid, 1], [2, count, *grid], [1, count, *grid], [*grid, count]]
    if input == "labels":
        scores = arrays(draw(usually(grid, [[1, *grid]])), label_fills, (*INTEGERS, "|b1", "<f4"))
    else:
        fills = logit_fills if input == "logits" else st.one_of(probability_fills, share_fills)
        scores = arrays(draw(usually([count, *grid], shapes)), fills, (*FLOATS, "|u1"))
    options = draw(parameters) | draw(some_of(_options, 2))
    if input != "logits":
        options["input"] = input
    described = {"scores": draw(scores), "image": draw(images(draw(usually(grid, [[2, *grid]]))))}
    if draw(once_in(10)):
        described["mask"] = draw(arrays(grid, mask_fills, ("|u1", "|b1", *FLOATS)))
    return {"arrays": described, "options": options}


_options = {
    "num_classes": rarely(st.integers(1, 6), odd),
    "return_labels": rarely(st.booleans(), odd, 20),
    "return_activity": rarely(st.booleans(), odd, 20),
    "spacing": spacings,
    "origin": positions,
    "upsampling": words("joint-bilateral", "bilinear"),
    "threads": threads,
    "device": rarely(st.just("cpu"), st.one_of(st.sampled_from(["cuda", "meta", "abc"]), odd), 4),
    "input": rarely(st.just("logits"), words(*INPUTS)),
}


@call
def refine_tiled(draw: Any) -> dict[str, Any]:
    grid = draw(grids(most_axes=2))
    input = draw(usually("logits", INPUTS))
    shape = grid if input == "labels" else [draw(classes), *grid]
    fills = {"logits": logit_fills, "probabilities": probability_fills, "labels": label_fills}[input]
    scores = arrays(shape, fills, INTEGERS if input == "labels" else FLOATS, forms=ARRAYS)
    image = arrays(draw(st.sampled_from([[*grid, 3], grid])), image_fills, ("|u1", *FLOATS, "<u2"), forms=ARRAYS)
    options = draw(some_of(_tile_options, 3)) | draw(some_of(_shared_fields, 2))
    if input != "logits":
        options["input"] = input
    return {"arrays": {"scores": draw(scores), "image": draw(image)}, "options": options}


_tile_options = {
    "tile": rarely(st.integers(1, 12), odd),
    "overlap": rarely(st.sampled_from([10_000, 3, 0]), odd),
    "memory": rarely(st.sampled_from([10**9, 2.5e8]), st.one_of(odd, st.sampled_from([10**4, 0, -1]))),
    "num_classes": rarely(st.integers(1, 6), odd),
    "spacing": spacings,
    "threads": threads,
}
_shared_fields = {
    name: parameter_fields[name] for name in ("theta_alpha", "theta_beta", "iterations", "tolerance", "filter")
}


@call
def lattice_filter(draw: Any) -> dict[str, Any]:
    points, d = (
        draw(rarely(st.integers(1, 60), st.sampled_from([0, 1, 500]))),
        draw(rarely(st.integers(1, 6), st.integers(0, 18))),
    )
    described = {
        "features": draw(_rows(points, d, 3.0)),
        "values": draw(_rows(points, draw(st.sampled_from([1, 2, 3, 9])), 1.0)),
    }
    fields = {
        "transpose": st.booleans(),
        "neighbour_rounds": rarely(st.integers(0, 1), odd),
        "threads": threads,
        "batch": rarely(arrays([points], label_fills, INTEGERS), odd),
    }
    return {"arrays": described, "options": draw(some_of(fields, 2))}


@call
def exact_filter(draw: Any) -> dict[str, Any]:
    points, d = (
        draw(rarely(st.integers(1, 60), st.sampled_from([0, 1, 500]))),
        draw(rarely(st.integers(1, 6), st.integers(0, 40))),
    )
    described = {
        "features": draw(_rows(points, d, 3.0)),
        "values": draw(_rows(points, draw(st.sampled_from([1, 2, 3, 9])), 1.0)),
    }
    return {"arrays": described, "options": draw(some_of({"transpose": st.booleans(), "threads": threads}, 2))}


def _rows(points: int, columns: int, scale: float) -> Any:
    fills = st.one_of(
        st.tuples(st.just("normal"), st.sampled_from([scale, 0.1, 300.0]), seeds).map(list),
        st.tuples(st.just("levels"), st.sampled_from([2, 256]), seeds).map(list),
        st.just(["constant", 0.0]),
        st.just(["ramp", 0.5]),
    )
    return arrays([points, columns], fills, (*FLOATS, "<i4", "|u1"))


@call
def grid_filter(draw: Any) -> dict[str, Any]:
    grid = draw(grids(most_axes=4))
    points = 1
    for length in grid:
        points *= length
    hostile = st.one_of(odd, st.lists(rarely(st.integers(-1, 9), odd), max_size=5), st.sampled_from(HUGE_GRIDS))
    sigmas = rarely(
        st.sampled_from([0.0, 0.3, 1.0, 2.5, 30.0, 1e6]), st.one_of(st.lists(st.floats(0, 9), max_size=4), odd)
    )
    options = {"shape": draw(rarely(st.just(grid), hostile)), "sigma": draw(sigmas)}
    options |= draw(some_of({"dtype": words("float32", "float64"), "threads": threads}, 2))
    return {"arrays": {"values": draw(_rows(points, draw(st.sampled_from([1, 2, 3, 9])), 1.0))}, "options": options}


HUGE_GRIDS = [[2**40], [2**63], [2**32, 2**32], [2**20, 2**20, 2**20]]
"""Shapes whose points cannot be counted, or not be kept."""


@st.composite
def _terms(draw: Any, grid: list[int]) -> list[dict[str, Any]]:
    points = 1
    for length in grid:
        points *= length
    described = st.fixed_dictionaries(
        {
            "kernel": st.sampled_from(["grid", "lattice", "exact", "matrix"]),
            "numbers": st.integers(0, 99).map(
                lambda seed: [[(seed * 37 + 11 * i) % 101 / 13.7, (i * i + seed) % 17 / 3.1] for i in range(points)]
            ),
            "grid": st.just(grid),
            "sigma": st.sampled_from([0.0, 0.7, 2.5]),
            "weight": st.sampled_from([1.0, 0.3, -0.5, 2.0]),
            "normalization": st.sampled_from(NORMALIZATIONS),
        }
    )
    return draw(st.lists(described, max_size=2))


@call
def mean_field(draw: Any) -> dict[str, Any]:
    grid = draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))
    fields = {
        "iterations": counts,
        "compatibility": class_weights,
        "damping": shares,
        "class_threshold": shares,
        "tolerance": shares,
        "return_probabilities": st.booleans(),
        "threads": threads,
    }
    unary = arrays([draw(classes), *grid], logit_fills)
    return {"arrays": {"unary": draw(unary)}, "terms": draw(_terms(grid)), "options": draw(some_of(fields, 4))}


@call
def energies(draw: Any) -> dict[str, Any]:
    grid = draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))
    described = {
        "unary": draw(arrays([draw(classes), *grid], logit_fills)),
        "labels": draw(arrays(grid, label_fills, INTEGERS)),
    }
    return {
        "arrays": described,
        "terms": draw(_terms(grid)),
        "options": draw(some_of({"compatibility": class_weights}, 1)),
    }


@call
def unary_from_labels(draw: Any) -> dict[str, Any]:
    described = {"labels": draw(grids().flatmap(lambda grid: arrays(grid, label_fills, (*INTEGERS, "|b1", "<f4"))))}
    options = {"num_classes": draw(rarely(st.sampled_from([1, 2, 5, 21, 256, 300]), odd))}
    fields = {"ground_truth_probability": shares, "zero_unsure": rarely(st.booleans(), odd)}
    return {"arrays": described, "options": options | draw(some_of(fields, 2))}


@call
def unary_from_probabilities(draw: Any) -> dict[str, Any]:
    shape = [draw(classes), *draw(grids())]
    fields = {"scale": rarely(st.just(1.0), shares, 1), "floor": rarely(st.sampled_from([1e-5, 1e-30, 0.1]), odd)}
    return {
        "arrays": {"probabilities": draw(arrays(shape, st.one_of(probability_fills, share_fills)))},
        "options": draw(some_of(fields, 2)),
    }


@call
def upsample(draw: Any) -> dict[str, Any]:
    grid = draw(grids())
    low = [max(1, length // draw(st.integers(1, 4))) if length else 0 for length in grid]
    described = {"scores": draw(arrays([draw(classes), *draw(usually(low, [[1] * len(grid)]))], logit_fills))}
    described["image"] = draw(images(grid))
    fields = {
        "covers": rarely(st.sampled_from([grid, [2 * each for each in grid]]), odd),
        "exact": st.booleans(),
        "features": st.tuples(deviations, deviations).map(list),
        "threads": threads,
    }
    return {"arrays": described, "options": draw(some_of(fields, 2))}


@call
def bilateral_solver(draw: Any) -> dict[str, Any]:
    grid = draw(grids(most_axes=2))
    described = {
        "target": draw(arrays(draw(usually(grid, [[3, *grid]])), image_fills)),
        "confidence": draw(arrays(grid, mask_fills)),
        "image": draw(images(grid)),
    }
    fields = {
        "features": st.tuples(deviations, deviations).map(list),
        "smoothness": st.one_of(deviations, st.just(1e6)),
        "iterations": rarely(st.integers(0, 20), odd),
        "tolerance": shares,
        "threads": threads,
    }
    return {"arrays": described, "options": draw(some_of(fields, 3))}


@call
def contrast_theta_beta(draw: Any) -> dict[str, Any]:
    grid = draw(grids())
    described = {"image": draw(images(grid))}
    if draw(once_in(6)):
        described["mask"] = draw(arrays(grid, mask_fills))
    return {"arrays": described, "options": draw(some_of({"shape": rarely(st.just(grid), odd)}, 1))}


@call
def features(draw: Any) -> dict[str, Any]:
    grid = draw(grids())
    options = {"theta_alpha": draw(deviations), "theta_beta": draw(deviations)}
    fields = {"shape": rarely(st.just(grid), odd), "origin": positions, "dtype": words("float32", "float64")}
    return {"arrays": {"image": draw(images(grid))}, "options": options | draw(some_of(fields, 2))}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**20)
    | st.floats()
    | st.sampled_from(["CRF", "Kernel", "Spatial", "Bilateral", "Grid", "Exact", "MeanField", "after", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "kernels", "features", "filter", "weight", "solver", "theta_gamma", "iterations", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@call
def crf_text(draw: Any) -> str:
    import json

    text = json.dumps({"type": "CRF", "kernels": draw(json_values)} if draw(st.booleans()) else draw(json_values))
    return draw(rarely(st.just(text), st.sampled_from(["", "{", "[" * 5000, text[: len(text) // 2], "\x00", "{}"])))


EXAMPLES["made_array"] = grids(4).flatmap(lambda shape: arrays(shape, image_fills, (*FLOATS, *INTEGERS), forms=FORMS))
EXAMPLES["parameters"] = parameters
