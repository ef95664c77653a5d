"""The registry of cases: what is measured, on what, against whom."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from .case import THETAS, Case
from .compare import compare, compare_volumes
from .folder import throughput
from .measure import Workbench, interleaved, medians, model_settings, ratio
from .photos import MEDIAN, SETTLED, TEXTURED
from .quality import candidates, quality
from .smoothers import SMOOTHERS
from .tolerance import error_and_time, evaluated_pixels, gradients_changed, over_photos, time_saved


def peak_memory(case: Case, bench: Workbench) -> list[dict]:
    """Most resident memory of the first large call over what the process held before it, inputs included."""
    rows = []
    for photo, theta, settings in case.rows(bench):
        inputs, small = bench.inputs(photo, case.classes), bench.inputs(photo, case.classes, (32, 24))
        sizes = {}
        for side in bench.found(case.sides):
            with bench.child(side, case.cores) as child:
                child.ask("time_call", small, settings)  # imports and code pages
                sizes[side] = child.ask("peak_memory", inputs, settings)
        rows.append({"photo": photo, "thetas": theta, "bytes": sizes})
    return rows


def repeated_calls(case: Case, bench: Workbench) -> list[dict]:
    """Growth of resident memory over many calls in one process."""
    rows = []
    photo, theta, settings = case.rows(bench)[0]
    for scale, calls in ((0.25, 1000), (1.0, 50)):
        size = bench.scaled(photo, scale)
        inputs = bench.inputs(photo, case.classes, size)
        growth = {}
        for side in bench.found(case.sides):
            with bench.child(side, case.cores) as child:
                growth[side] = child.ask("memory_growth", inputs, settings, calls // 10 if bench.quick else calls)
        rows.append({"photo": photo, "thetas": theta, "size": size, "calls": calls, "bytes": growth})
    return rows


def scaling(case: Case, bench: Workbench) -> list[dict]:
    """Seconds against pixels, classes and lattice vertices, one varied at a time."""
    from crfrnn import PermutohedralLattice, bilateral_features

    photo, (alpha, beta, gamma), _ = case.rows(bench)[0]
    points = [("pixels", scale, case.classes, beta) for scale in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5)]
    points += [("classes", 1.0, classes, beta) for classes in (2, 10, 21, 40, 60, 80)]
    points += [("vertices", 1.0, case.classes, narrow) for narrow in (30.0, 13.0, 6.0, 4.0, 3.0, 2.0)]
    rows = []
    for axis, scale, classes, beta in points[:: 5 if bench.quick else 1]:
        inputs = bench.inputs(photo, classes, bench.scaled(photo, scale))
        settings = model_settings((alpha * scale, beta, gamma), case.iterations)
        with np.load(inputs) as file:
            image = file["image"]
        value = {
            "pixels": image.shape[0] * image.shape[1],
            "classes": classes,
            "vertices": PermutohedralLattice(bilateral_features(image, alpha * scale, beta)).num_vertices,
        }
        with ExitStack() as stack:
            children = {side: stack.enter_context(bench.child(side, case.cores)) for side in bench.found(case.sides)}
            seconds = interleaved(children, inputs, settings, case.rounds(bench))
        rows.append({"axis": axis, "value": value[axis], "seconds": medians(seconds)})
    return rows


def parts(case: Case, bench: Workbench) -> list[dict]:
    """Seconds of sides that are parts of each other, and the median of the last one's over the first one's."""
    rows = []
    for photo, theta, settings in case.rows(bench):
        inputs = bench.inputs(photo, case.classes, case.size)
        with ExitStack() as stack:
            children = {side: stack.enter_context(bench.child(side, case.cores)) for side in bench.found(case.sides)}
            seconds = interleaved(children, inputs, settings, case.rounds(bench))
        share = ratio(seconds, case.sides[-1], case.sides[0])
        rows.append({"photo": photo, "thetas": theta, "parts": medians(seconds), "share": share})
    return rows


def added_vertices(case: Case, bench: Workbench) -> list[dict]:
    """Relative error of a message, its mean removed, against the dense Gaussian, with rounds of vertices added."""
    from crfrnn import PermutohedralLattice, bilateral_features
    from crfrnn.reference import DenseGaussian

    rows = []
    for photo, (alpha, beta, gamma), _ in case.rows(bench):
        with np.load(bench.inputs(photo, case.classes, case.size)) as file:
            image, logits = file["image"], file["logits"].reshape(case.classes, -1).T
        features = bilateral_features(image.astype(np.float64), alpha / 4, beta)
        dense = DenseGaussian(features)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        inputs = {
            "softmax": probabilities / probabilities.sum(axis=1, keepdims=True),
            "noise": np.random.default_rng(0).normal(size=(len(features), 4)),
        }
        for rounds in (0, 1, 2):
            lattice = PermutohedralLattice(features, neighbour_rounds=rounds)
            errors = {}
            for name, values in inputs.items():
                truth, message = (k.filter(values) / k.norm()[:, None] for k in (dense, lattice))
                truth, message = truth - truth.mean(axis=0), message - message.mean(axis=0)
                errors[name] = float(np.linalg.norm(message - truth) / np.linalg.norm(truth))
            row = {"photo": photo, "thetas": (alpha / 4, beta, gamma), "neighbour_rounds": rounds}
            rows.append(row | {"vertices": lattice.num_vertices, "errors": errors})
    return rows


TRAINING = "“forward + backward” is the PyTorch layer in training."
QUALITY_SIDES = ("crfrnn", "pydensecrf", *(side.__name__ for side in SMOOTHERS))
CASES = (
    Case("one-core", "One core: 21 classes, T = 10", compare),
    Case("two-cores", "Two cores: 21 classes, T = 10", compare, cores=2),
    Case(
        "large",
        "2000×1332: 21 classes, T = 5, two cores",
        compare,
        iterations=5,
        cores=2,
        photos=(TEXTURED,),
        size=(2000, 1332),
        repeats=3,
        note="The 500×333 photo enlarged. The distance to exact filters is that of the photo not enlarged.",
    ),
    Case("two-classes", "Two classes: T = 10, one core", compare, classes=2, note="Background and “any object”."),
    Case(
        "likely-classes",
        "Unlikely classes left out: 21 classes, T = 10, one core",
        compare,
        options={"class_threshold": 0.01},
        note="crfrnn with `class_threshold=0.01`: a class is filtered until its probability is nowhere above 0.01. "
        "“changed” is the share of labels that this moves against filtering them all.",
    ),
    Case(
        "volume",
        "A volume of 128×128×64: 4 classes, T = 5, two cores",
        compare_volumes,
        sides=("crfrnn", "pydensecrf_volume"),
        agrees_with="pydensecrf_volume",
        iterations=5,
        cores=2,
        photos=("2013_12_1",),
        thetas=((5.0, 30.0, 2.0),),
        repeats=3,
        note="The middle of an MRI volume, its edges repeated where it is smaller; θ_α and θ_γ are in voxels. The "
        "scores are those of an organ, and of background, dark and bright tissue by levels of the image: labels "
        "blurred by 2 voxels. pydensecrf2 is its general `DenseCRF` with the features of `pydensecrf.utils`, their "
        "axes in the order x, y, z.",
    ),
    Case(
        "folder",
        "A folder of 222 photos: 21 classes, T = 10, two cores",
        throughput,
        sides=("pydensecrf", "compat", "refine", "refine-likely"),
        cores=2,
        repeats=2,
        note="Whole programs, from files to label images; photos and scores are read, and scores stretched to the size "
        "of the photo. pydensecrf2 runs in a pool of two processes; “compat” is that script with crfrnn's modules in "
        "its place, “refine” is `crfrnn refine`, then with `--class-threshold 0.01`. Labels off is the share of labels "
        "that differ from those of “refine”. pydensecrf2 normalises symmetrically and has both kernels on a lattice; "
        "on that model the labels of `crfrnn refine` differ from its labels in the share “max Δ”.",
    ),
    Case(
        "layer",
        "The PyTorch layer, forward and backward: 21 classes, T = 5, two cores",
        compare,
        sides=("layer_dense", "layer_backward", "layer"),
        agrees_with="crfrnn",
        iterations=5,
        cores=2,
        thetas=THETAS[:1],
        note="Forward runs without gradients, “forward + backward” is training with the default tolerance; “max Δ” is "
        "against `crfrnn.refine`.",
    ),
    Case(
        "segmentation",
        "Segmentation of a photo: network, kernels, T = 10, two cores",
        parts,
        sides=("segmenter", "segmenter_kernels", "segmenter_network"),
        cores=2,
        thetas=((80.0, 20.0, 3.0),),
        note="The model in the package, with its own weights. Network and kernels leave the iterations.",
    ),
    Case(
        "training-step",
        "A training step, without and with the CRF-RNN: batch of 8 at 320×213, 21 classes, T = 5, two cores",
        parts,
        sides=("step_crf", "step"),
        iterations=5,
        cores=2,
        thetas=((160.0, 3.0, 3.0), (80.0, 20.0, 3.0)),
        size=(320, 213),
        note="`FcnLite`, forward, backward and AdamW. The photo is reduced, which makes it rougher than one taken so.",
    ),
    Case(
        "other-tools",
        "Other tools: 21 classes, T = 10, one core",
        compare,
        sides=("crfrnn", "simplecrf", "crfseg"),
        photos=(MEDIAN,),
        thetas=THETAS[:1],
        repeats=3,
        note="SimpleCRF returns labels only and normalises in its own way. crfseg's model has no bilateral kernel, "
        "only an 11×11 spatial one: its time is for orientation.",
    ),
    Case(
        "memory",
        "Peak memory over the inputs: 21 classes, T = 10, one core",
        peak_memory,
        sides=("crfrnn", "pydensecrf", "layer_backward"),
        note=TRAINING,
    ),
    Case(
        "calls",
        "Memory growth over many calls: 21 classes, T = 10, one core",
        repeated_calls,
        sides=("crfrnn", "pydensecrf", "layer_backward"),
        photos=(MEDIAN,),
        note=f"Between a tenth of the calls and all of them. {TRAINING}",
    ),
    Case(
        "added-vertices",
        "Error of the bilateral message with vertices added (`neighbour_rounds`)",
        added_vertices,
        sides=("crfrnn",),
        size=(125, 92),
        note="Relative to the dense Gaussian in float64, the mean of each removed; photos reduced to 125×92, θ_α too.",
    ),
    Case(
        "tolerance",
        "The default tolerance on all photos: 21 classes, T = 10",
        over_photos,
        sides=("crfrnn",),
        cores=2,
        note="Against `tolerance=0` on the 222 photos of voc_animals/val. |Δq| of a pixel is the largest over its "
        "classes, that of a photo the largest over its pixels.",
    ),
    Case(
        "gradients",
        "Gradients with the default tolerance: 21 classes, T = 5",
        gradients_changed,
        sides=("layer",),
        iterations=5,
        cores=2,
        note="Of the cross-entropy to the annotated labels, against `tolerance=0`, on every fifth photo of "
        "voc_animals/val: the largest difference, relative to the largest entry of the gradient, in the worst photo.",
    ),
    Case(
        "tolerance-error",
        "Error and time against the tolerance: 21 classes, T = 10, one core",
        error_and_time,
        sides=("crfrnn",),
        repeats=5,
        note="|Δq| and labels against tolerance 0.\n\n![Error and time against the tolerance](tolerance-error.png)\n\n",
    ),
    Case(
        "tolerance-time",
        "Time against iterations and size, with and without a tolerance: 21 classes, one core",
        time_saved,
        sides=("crfrnn",),
        photos=(MEDIAN,),
        repeats=3,
        note="The size is varied at T = 10.\n\n![Time against iterations and pixels](tolerance-time.png)\n\n",
    ),
    Case(
        "activity",
        "Which pixels each iteration evaluates: 21 classes, default tolerance",
        evaluated_pixels,
        sides=("crfrnn",),
        photos=(SETTLED,),
        thetas=THETAS[:1],
        note="Evaluated pixels are orange. The photo was chosen because its scores settle: on most of these photos all "
        "pixels are evaluated in all ten iterations, and only classes are left out. The result is worked out at all "
        "pixels after the last iteration.\n\n![Pixels evaluated in some iterations](activity.png)\n\n",
    ),
    Case(
        "quality",
        "Quality and time beside other ways to refine scores: 21 classes, T = 10, one and two cores",
        quality,
        sides=QUALITY_SIDES,
        cores=2,
        repeats=1,
        note="40 photos of voc_animals/val, the first of a shuffled list (`benchmarks/quality.py`). Mean IoU, in per "
        "cent, is over the classes that occur; “near edges” counts pixels within 5 pixels of a label edge. The gain in "
        "mean IoU has its 95 % interval over choices of photos (`crfrnn.evaluation.bootstrap`). Times are medians over "
        "photos. Rows with θ in the name have the settings of the tables above, which are for time alone: on these "
        "scores they are too strong. The other settings are the best in the next table. Guided and joint "
        "bilateral blur are kornia's, on probabilities; `subsample` computes the guided one's factors on a coarser "
        "grid. PAMR (Araslanov & Roth 2020) is plain torch and the bilateral solver (Barron & Poole 2016) SciPy, both "
        "in `benchmarks/`: OpenCV's packages on PyPI are built without the solver.",
    ),
    Case(
        "quality-settings",
        "The settings tried",
        candidates,
        sides=("crfrnn", *(side.__name__ for side in SMOOTHERS)),
        cores=2,
        note="On the 20 photos that follow in that list.",
    ),
    Case("scaling", "Time against size: T = 5, one core", scaling, iterations=5, photos=(MEDIAN,), repeats=3),
)
