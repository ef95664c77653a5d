"""A strategy for each property, of the same name: the arguments of a call as plain values."""

from typing import Any

from hypothesis import strategies as st
from strategies import (
    FLOATS,
    FORMS,
    INTEGERS,
    NORMALIZATIONS,
    arrays,
    class_weights,
    counts,
    deviations,
    grids,
    image_fills,
    images,
    label_fills,
    logit_fills,
    mask_fills,
    odd,
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

TENSORS = ("tensor", "learned tensor", "array", "list")
TENSOR_TYPES = ("<f4", "<f8", "<f2", "<i8", "|u1")
INPUTS = ("logits", "probabilities", "labels")
classes = st.one_of(st.integers(2, 5), st.sampled_from([1, 2, 3, 8, 9, 21]))

EXAMPLES: dict[str, Any] = {}
"""Strategies by the name of their property."""


def call(draw_example: Any) -> Any:
    """A strategy for the property of the same name."""
    strategy = st.composite(draw_example)
    EXAMPLES[draw_example.__name__] = strategy()
    return strategy


def once_in(times: int) -> Any:
    return st.sampled_from([False] * (times - 1) + [True])


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


ARRAYS = ("array", "read-only", "subclass", "masked")
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
    hostile = st.one_of(
        odd, st.lists(rarely(st.integers(-1, 9), odd), max_size=5), st.sampled_from(HUGE_GRIDS or [[0]])
    )
    sigmas = rarely(
        st.sampled_from([0.0, 0.3, 1.0, 2.5, 30.0, 1e6]), st.one_of(st.lists(st.floats(0, 9), max_size=4), odd)
    )
    options = {"shape": draw(rarely(st.just(grid), hostile)), "sigma": draw(sigmas)}
    options |= draw(some_of({"dtype": words("float32", "float64"), "threads": threads}, 2))
    return {"arrays": {"values": draw(_rows(points, draw(st.sampled_from([1, 2, 3, 9])), 1.0))}, "options": options}


HUGE_GRIDS: list[list[int]] = []
"""Shapes whose product does not fit: to be [[2**40], [2**63], [2**32, 2**32], [2**20, 2**20, 2**20]]."""


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


# Tensors, channels first.


@st.composite
def _pair(
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
    example = draw(_pair())
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
    return {**draw(_pair()), "options": draw(some_of(fields, 4))}


@call
def gaussian_filter(draw: Any) -> dict[str, Any]:
    example = draw(_pair(names=("values", "features")))
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
        **draw(_pair(names=("scores", "image"), smaller=True)),
        "options": draw(some_of({"threads": threads, "exact": st.booleans()}, 2)),
    }


@call
def dense_crf_loss(draw: Any) -> dict[str, Any]:
    example = draw(_pair(st.one_of(share_fills, st.just(["constant", 1.0])), ("probabilities", "image")))
    fields = {"spacing": spacings, "threads": threads, "parameters": words("photos", "deeplab")}
    return {**example, "options": draw(some_of(fields, 1))}


EXAMPLES["gated_crf_loss"] = EXAMPLES["normalized_cut_loss"] = EXAMPLES["dense_crf_loss"]

# Other tools' names.


@call
def pydensecrf(draw: Any) -> dict[str, Any]:
    h, w = draw(st.tuples(sides_of_pictures, sides_of_pictures))
    labels = draw(classes)
    deviation = rarely(deviations, st.lists(deviations, min_size=2, max_size=2), 3)
    options = {"w": w, "h": h, "labels": labels, "iterations": draw(counts)}
    options["gaussian"] = draw(st.fixed_dictionaries({"sxy": deviation, "compat": class_weights}))
    options["bilateral"] = draw(st.fixed_dictionaries({"sxy": deviation, "srgb": deviation, "compat": class_weights}))
    shape = draw(usually([labels, h * w], [[labels, h, w], [h * w, labels]]))
    described = {
        "unary": draw(arrays(shape, logit_fills, forms=ARRAYS)),
        "image": draw(
            arrays(draw(usually([h, w, 3], [[w, h, 3], [h, w]])), image_fills, ("|u1", *FLOATS), forms=ARRAYS)
        ),
    }
    return {"arrays": described, "options": options}


sides_of_pictures = st.integers(1, 9)


@call
def pydensecrf_unary_from_labels(draw: Any) -> dict[str, Any]:
    described = {"labels": draw(grids().flatmap(lambda grid: arrays(grid, label_fills, INTEGERS)))}
    options = {"n_labels": draw(rarely(st.integers(1, 22), odd)), "gt_prob": draw(st.one_of(shares, st.just(0.7)))}
    return {"arrays": described, "options": options | draw(some_of({"zero_unsure": st.booleans()}, 1))}


@call
def pydensecrf_unary_from_softmax(draw: Any) -> dict[str, Any]:
    shape = [draw(classes), *draw(grids())]
    fields = {"scale": shares, "clip": rarely(st.sampled_from([1e-5, 1e-30]), odd)}
    return {"arrays": {"sm": draw(arrays(shape, probability_fills))}, "options": draw(some_of(fields, 2))}


@call
def pydensecrf_features(draw: Any) -> dict[str, Any]:
    grid = draw(grids())
    options = {
        "sdims": draw(rarely(st.just([3.0] * len(grid)), st.lists(deviations, min_size=1, max_size=3), 2)),
        "schan": draw(rarely(deviations, st.lists(deviations, max_size=3))),
    }
    return {
        "arrays": {"img": draw(images(grid))},
        "options": options | draw(some_of({"chdim": rarely(st.just(-1), rarely(st.integers(0, 3), odd), 3)}, 1)),
    }


@call
def simplecrf(draw: Any) -> dict[str, Any]:
    grid = [draw(sides_of_pictures), draw(sides_of_pictures)]
    described = {
        "I": draw(arrays([*grid, 3], image_fills, ("|u1", *FLOATS), forms=ARRAYS)),
        "P": draw(arrays([*grid, draw(classes)], share_fills, forms=ARRAYS)),
    }
    param = st.tuples(class_weights, deviations, deviations, class_weights, deviations, counts).map(list)
    return {"arrays": described, "options": {"param": draw(rarely(param, odd, 20))}}


@call
def simplecrf_3d(draw: Any) -> dict[str, Any]:
    grid = [draw(st.integers(1, 4)) for _ in range(3)]
    described = {
        "I": draw(arrays([*grid, 2], image_fills, ("|u1", *FLOATS), forms=ARRAYS)),
        "P": draw(arrays([*grid, draw(classes)], share_fills, forms=ARRAYS)),
    }
    names = [f"{kernel}{axis}Std" for kernel in ("Pos", "Bilateral") for axis in "RCZ"]
    param = dict.fromkeys(names, deviations) | {
        "PosW": class_weights,
        "BilateralW": class_weights,
        "MaxIterations": counts,
    }
    param |= {"ModalityNum": rarely(st.just(2), odd), "BilateralModsStds": st.lists(deviations, min_size=2, max_size=2)}
    return {"arrays": described, "options": {"param": draw(st.fixed_dictionaries(param))}}


@call
def opencv_bilateral_solver(draw: Any) -> dict[str, Any]:
    grid = [draw(sides_of_pictures), draw(sides_of_pictures)]
    described = {
        "guide": draw(arrays(draw(st.sampled_from([[*grid, 3], grid])), image_fills, ("|u1", "<f4"), forms=ARRAYS)),
        "src": draw(
            arrays(draw(usually(grid, [[*grid, 2]])), image_fills, ("|u1", "<u2", "<i2", "<f4", "<f8"), forms=ARRAYS)
        ),
        "confidence": draw(arrays(grid, mask_fills, ("|u1", "<f4"), forms=ARRAYS)),
    }
    fields = dict.fromkeys(("sigma_spatial", "sigma_luma", "sigma_chroma", "lambda_"), deviations)
    return {"arrays": described, "options": draw(some_of({**fields, "num_iter": counts, "max_tol": shares}, 2))}


@call
def monai_crf(draw: Any) -> dict[str, Any]:
    names = ("bilateral_spatial_sigma", "bilateral_color_sigma", "gaussian_spatial_sigma", "update_factor")
    fields = dict.fromkeys(names, deviations) | {"iterations": counts, "bilateral_weight": class_weights}
    return {**draw(_pair()), "options": draw(some_of(fields, 3))}


@call
def monai_bilateral_filter(draw: Any) -> dict[str, Any]:
    example = draw(_pair(names=("values", "image")))
    fields = {"spatial_sigma": deviations, "color_sigma": deviations, "fast_approx": st.booleans()}
    return {"arrays": {"image": example["arrays"]["image"]}, "options": draw(some_of(fields, 2))}


@call
def monai_phl_filter(draw: Any) -> dict[str, Any]:
    example = draw(_pair(names=("values", "features")))
    return {**example, "options": draw(some_of({"sigmas": rarely(st.lists(deviations, max_size=4), odd)}, 1))}


@call
def monai_trainable_filter(draw: Any) -> dict[str, Any]:
    example = draw(_pair(names=("values", "image")))
    fields = {"spatial_sigma": deviations, "color_sigma": deviations}
    return {"arrays": {"image": example["arrays"]["image"]}, "options": draw(some_of(fields, 2))}


@call
def pamr_module(draw: Any) -> dict[str, Any]:
    example = draw(_pair(probability_fills, ("probabilities", "image"), smaller=True))
    fields = {
        "num_iter": counts,
        "dilations": rarely(
            st.lists(st.integers(1, 24), min_size=1, max_size=3), st.one_of(odd, st.lists(st.integers(-1, 3)))
        ),
    }
    return {**example, "options": draw(some_of(fields, 2))}


@call
def crfasrnn_layer(draw: Any) -> dict[str, Any]:
    example = draw(_pair())
    count = example["arrays"]["logits"]["shape"][1:2] or [3]
    return {**example, "options": {"num_labels": draw(rarely(st.just(count[0]), odd)), "num_iterations": draw(counts)}}


EXAMPLES["made_array"] = grids(4).flatmap(lambda shape: arrays(shape, image_fills, (*FLOATS, *INTEGERS), forms=FORMS))
EXAMPLES["parameters"] = parameters
