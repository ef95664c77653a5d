"""Arrays and arguments as people make them, for hypothesis: descriptions, which arrays.py turns into what is passed."""

from typing import Any

from arrays import ODD_VALUES
from hypothesis import strategies as st

FLOATS = ("<f4", "<f8", "<f2", ">f4", ">f8", "g")
INTEGERS = ("|u1", "<i8", "<i4", "<u2", ">i2", "|i1", "<u8", "<u4", ">u4")
TENSORS = ("tensor", "learned tensor", "array", "list")
TENSOR_TYPES = ("<f4", "<f8", "<f2", "<i8", "|u1")
ARRAYS = ("array", "read-only", "subclass", "masked")
NO_NUMBERS = ("|b1", "<c8", "<U3", "|S2", "O", "<M8[D]")
LAYOUTS = ("C", "reversed", "all reversed", "strided", "cropped", "Fortran", "moved", "broadcast", "unaligned")
FORMS = ("array", "read-only", "masked", "hiding", "subclass", "list", "tensor", "learned tensor", "picture")
ENDS = ("max", "min", "1e38", "-1e38", "1e20", "1e39", "1e300")
"""Specials near the end of what a dtype holds."""
SMALL = ("nan", "inf", "-inf", "-0", "tiny", "subnormal")
FIELDS_OF_NUMBERS = ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight", "damping")

seeds = st.integers(0, 2**16)
sides = st.one_of(st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8, 16, 17]))
odd = st.sampled_from(sorted(ODD_VALUES)).map(lambda name: {"odd": name})


def rarely(common: Any, rare: Any, times: int = 12) -> Any:
    """The one, and once in so many times the other. (Of `one_of` the branches of branches count alike.)"""
    return st.sampled_from([common] * times + [rare]).flatmap(lambda chosen: chosen)


def usually(first: Any, others: Any = ()) -> Any:
    """One of some values, the first three times of four."""
    return st.sampled_from([first] * 3 * max(1, len(others)) + list(others))


@st.composite
def grids(draw: Any, most_axes: int = 3) -> list[int]:
    """Spatial shapes: small, of huge aspect, and cubes, whose axes cannot be told apart."""
    kind = draw(usually("small", ("long", "cube", "point", "empty")))
    if kind == "long":
        long = draw(st.integers(60, 3000))
        return draw(st.sampled_from([[long], [1, long], [long, 1], [long, 2], [1, 1, long][:most_axes]]))[:most_axes]
    axes = draw(st.integers(1, most_axes))
    if kind == "cube":
        return [draw(st.integers(1, 5))] * axes
    if kind == "point":
        return [1] * axes
    grid = draw(st.lists(sides, min_size=axes, max_size=axes))
    if kind == "empty":
        grid[draw(st.integers(0, axes - 1))] = 0
    return grid


@st.composite
def arrays(
    draw: Any,
    shape: list[int],
    fills: Any,
    dtypes: tuple[str, ...] = FLOATS,
    specials: Any = SMALL + ENDS,
    forms: tuple[str, ...] = FORMS,
) -> dict[str, Any]:
    """An array of a shape. Most are usable; some hold what no call can take."""
    described: dict[str, Any] = {"shape": list(shape), "dtype": draw(usually(dtypes[0], dtypes)), "fill": draw(fills)}
    described["layout"] = draw(usually("C", LAYOUTS))
    described["form"] = draw(usually("array", forms))
    spoilt = draw(st.sampled_from([""] * 27 + ["special", "special", "type", "shape"]))
    if spoilt == "special":
        described["specials"] = draw(
            st.lists(st.tuples(st.integers(0, 999), st.sampled_from(specials)).map(list), min_size=1, max_size=3)
        )
    elif spoilt == "type":
        described["dtype"] = draw(st.sampled_from(NO_NUMBERS))
    elif spoilt == "shape":
        described["shape"] = draw(st.lists(st.integers(0, 5), max_size=5))
    return described


logit_fills = st.one_of(
    st.tuples(st.just("normal"), st.sampled_from([1.0, 4.0, 60.0, 3e4]), seeds).map(list),
    st.tuples(st.just("constant"), st.sampled_from([0.0, -7.5, 1e4])).map(list),
    st.tuples(st.just("ramp"), st.sampled_from([0.01, 1.0])).map(list),
)
probability_fills = st.tuples(st.just("probabilities"), st.sampled_from([0.1, 2.0, 50.0]), seeds).map(list)
share_fills = st.tuples(st.just("uniform"), st.just(1.0), seeds).map(list)
image_fills = st.one_of(
    st.tuples(st.just("uniform"), st.sampled_from([255.0, 1.0, 65535.0]), seeds).map(list),
    st.tuples(st.just("levels"), st.sampled_from([256, 2, 4096]), seeds).map(list),
    st.tuples(st.just("constant"), st.sampled_from([0.0, 128.0, 255.0])).map(list),
    st.tuples(st.just("ramp"), st.sampled_from([0.1, 1.0, 7.0])).map(list),
)
label_fills = st.one_of(
    st.tuples(st.just("levels"), st.sampled_from([2, 3, 5, 21, 256]), seeds).map(list),
    st.tuples(st.just("constant"), st.sampled_from([0, 1, 255, -1])).map(list),
)
mask_fills = st.one_of(
    st.tuples(st.just("levels"), st.just(2), seeds).map(list),
    st.tuples(st.just("uniform"), st.just(3.0), seeds).map(list),
)


def images(grid: list[int]) -> Any:
    """Images (*grid,) or (*grid, K), now and then with channels first."""
    shapes = usually([*grid, 3], [grid, grid, [*grid, 1], [*grid, 4], [3, *grid], [*grid, 14], grid[::-1]])
    return shapes.flatmap(lambda shape: arrays(shape, image_fills, ("|u1", *FLOATS, "<u2", "<i8", ">u2")))


deviations = rarely(
    st.sampled_from([0.7, 1.57, 5.13, 61.7, 160.0]), st.one_of(odd, st.sampled_from([1e-3, 1e4, 1e9, 1e-12]))
)
class_weights = rarely(st.sampled_from([0.0, 0.7, 3.0, -1.0]), st.one_of(odd, st.lists(st.floats(-2, 2), max_size=5)))
counts = rarely(st.integers(0, 4), odd)
threads = rarely(st.sampled_from([1, 2, 3]), odd, 20)
shares = rarely(st.sampled_from([0.0, 0.001, 0.3]), st.one_of(odd, st.sampled_from([1.0, -0.1, 0.999999])))


def words(*known: str) -> Any:
    """One of the words that an argument takes, or none of them."""
    return rarely(st.sampled_from(known), st.one_of(st.just("others"), odd), 30)


def some_of(fields: dict[str, Any], most: int) -> Any:
    """A few arguments by name."""
    names = st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=most)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))


NORMALIZATIONS = ("after", "before", "symmetric", "none")
parameter_fields: dict[str, Any] = {
    "theta_alpha": rarely(deviations, st.lists(deviations, max_size=4)),
    "theta_beta": rarely(deviations, st.lists(deviations, max_size=4)),
    "theta_gamma": rarely(deviations, st.lists(deviations, max_size=4)),
    "spatial_weight": class_weights,
    "bilateral_weight": class_weights,
    "compatibility": class_weights,
    "normalization": words(*NORMALIZATIONS),
    "iterations": counts,
    "spatial": words("grid", "lattice"),
    "damping": shares,
    "class_threshold": shares,
    "tolerance": shares,
    "neighbour_rounds": rarely(st.integers(0, 1), odd),
    "filter": words("lattice", "exact"),
    "solver": words("mean-field", "frank-wolfe"),
    "image_range": rarely(st.sampled_from([[0, 1], [0, 255], [0, 65535]]), st.one_of(odd, st.just([1, 0]))),
}
frank_wolfe_fields: dict[str, Any] = {
    **{
        name: parameter_fields[name] for name in ("theta_alpha", "theta_beta", "spatial_weight", "iterations", "filter")
    },
    "regularization": words("entropic", "euclidean"),
    "strength": deviations,
    "step": words("line-search", "open-loop"),
}
parameters = rarely(
    some_of(parameter_fields, 4),
    some_of(frank_wolfe_fields, 4).map(lambda chosen: {**chosen, "solver": "frank-wolfe"}),
    4,
)
spacings = rarely(st.sampled_from([1.0, 0.5]), st.one_of(odd, st.sampled_from([[1.0, 2.0], [0.9, 0.9, 3.0]])), 3)
classes = st.one_of(st.integers(2, 5), st.sampled_from([1, 2, 3, 8, 9, 21]))


def once_in(times: int) -> Any:
    return st.sampled_from([False] * (times - 1) + [True])
