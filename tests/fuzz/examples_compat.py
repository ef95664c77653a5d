"""A strategy for each property of other tools' names."""

from typing import Any

from examples import call
from examples_torch import pair
from hypothesis import strategies as st
from strategies import (
    ARRAYS,
    FLOATS,
    INTEGERS,
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
    probability_fills,
    rarely,
    share_fills,
    shares,
    some_of,
    usually,
)


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
    return {**draw(pair()), "options": draw(some_of(fields, 3))}


@call
def monai_bilateral_filter(draw: Any) -> dict[str, Any]:
    example = draw(pair(names=("values", "image")))
    fields = {"spatial_sigma": deviations, "color_sigma": deviations, "fast_approx": st.booleans()}
    return {"arrays": {"image": example["arrays"]["image"]}, "options": draw(some_of(fields, 2))}


@call
def monai_phl_filter(draw: Any) -> dict[str, Any]:
    example = draw(pair(names=("values", "features")))
    return {**example, "options": draw(some_of({"sigmas": rarely(st.lists(deviations, max_size=4), odd)}, 1))}


@call
def monai_trainable_filter(draw: Any) -> dict[str, Any]:
    example = draw(pair(names=("values", "image")))
    fields = {"spatial_sigma": deviations, "color_sigma": deviations}
    return {"arrays": {"image": example["arrays"]["image"]}, "options": draw(some_of(fields, 2))}


@call
def pamr_module(draw: Any) -> dict[str, Any]:
    example = draw(pair(probability_fills, ("probabilities", "image"), smaller=True))
    fields = {
        "num_iter": counts,
        "dilations": rarely(
            st.lists(st.integers(1, 24), min_size=1, max_size=3), st.one_of(odd, st.lists(st.integers(-1, 3)))
        ),
    }
    return {**example, "options": draw(some_of(fields, 2))}


@call
def crfasrnn_layer(draw: Any) -> dict[str, Any]:
    example = draw(pair())
    count = example["arrays"]["logits"]["shape"][1:2] or [3]
    return {**example, "options": {"num_labels": draw(rarely(st.just(count[0]), odd)), "num_iterations": draw(counts)}}
