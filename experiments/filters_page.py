"""The words of docs/filters.md; `experiments/filters.py` puts the figures in."""

PAGE = """\
# One filter, other jobs

The lattice under the CRF does more than pass messages. This page is written by `python -m experiments.filters`. Times
are ratios of processor time on one core of an AMD EPYC.

## Scores smaller than the photo

Networks score a grid that is 4 to 16 times coarser than the photo. `upsampling=` says how `refine`, `CrfRnn`,
`crfrnn.torch.mean_field` and Keras' `CrfRnnLayer` bring such scores to the size of the photo, and `--upsampling` the
same for `crfrnn refine`. Without it, scores of another size are an error.

```python
refined = crfrnn.refine(scores, photo, upsampling="joint-bilateral")  # (21, 33, 33) and (366, 500, 3)
larger = crfrnn.upsample(scores, photo)  # the first half of that: features of a network, depth, anything
```

`"bilinear"` interpolates. `"joint-bilateral"` lets each pixel average the low pixels around it that have its colour
([algorithm.md](algorithm.md), eq. 33; Kopf et al. 2007). A pixel unlike all of these keeps the interpolated value.

{upsampling}

{measure}

![Bilinear and joint bilateral upsampling, without and with the CRF](filters-upsampling.jpg)

**When to take which.** {verdict}

**Alignment.** The corners of both grids coincide (`align_corners=False` in other libraries). With s the distance
between low pixels, low pixel i has its centre at (i + ½) s - ½ in pixels of the photo, and the photo's colour there. If
the network saw a photo that was padded below and to the right, give `upsample` the size of what it saw in pixels of the
photo, `covers=(513, 513)`. For scores over a square, `crfrnn refine` has `--square-scores`.

**Deviations.** θ_α is s and θ_β is 4 × `contrast_theta_beta(photo)`, so that levels may have any range;
`upsample(scores, photo, Bilateral(theta_alpha, theta_beta))` takes others. `Exact()` in the place of the lattice sums
over all pairs of pixels, in O(N²) time. In torch, gradients go to the scores and to the photo. Any channels of scores
and image and 1 to 3 spatial axes work; a lattice takes at most 16 axes and channels together.

## The bilateral solver

`crfrnn.bilateral_solver(target, confidence, photo)` finds values that are near the target where it is certain, and
smooth along the photo's edges everywhere (Barron & Poole 2016; [algorithm.md](algorithm.md), eq. 34 and 35). It fills
in what has no confidence, across any distance: depth with holes, a mask known in places, colours from strokes.

![Target, confidence and solution](filters-solver.jpg)

The published program quantises pixels into cells of a grid; here they lie on the lattice, and a cell of side σ becomes
a Gaussian of deviation σ/2. `crfrnn.compat.bilateral_solver` has the signatures of OpenCV's `fastBilateralSolverFilter`
and of `bilateral_solver_output`. Their solutions are near the published ones, not equal, and take longer, as a
lattice is finer than the cells. With σ of 24, 4 and 4 and λ = 256, on the foreground of

| photo | mean change of the target | mean difference to the published | pixels on the other side of ½ | time, of its |
| --- | --- | --- | --- | --- |
{solver}

**When to take which.** The CRF for class scores: it has a model of labels, and [benchmarks](benchmarks.md) has both
side by side. The solver for quantities, and where large parts are unknown. One filter where a local mean will do: the
solver takes about {solves:.0f} times as long as building a lattice and filtering with it once.

## MONAI's bilateral filters

`crfrnn.compat.monai` has `BilateralFilter`, `TrainableBilateralFilter` and `TrainableJointBilateralFilter`. The
trainable ones learn their deviations, on the lattice or, with `filter="exact"`, by sums over all pairs of pixels.

![A noisy patch, filtered on the lattice and over all pairs](filters-monai.jpg)

{monai}

**When to take which.** `fast_approx=True` and `filter="lattice"`, the defaults, for images; the exact sum for small
patches and as the truth. MONAI cuts its windows at 2.5 deviations; nothing is cut here.

## PAMR's signature

`crfrnn.compat.pamr.PAMR(num_iter, dilations)(image, mask)` is a dense CRF behind PAMR's call: another method, for code
that wants to try it. θ_α is the largest dilation, θ_β comes from each image's contrast, the weights are 3 and 5. On
{shimmed} of the photos, with 10 iterations and dilations 1 to 24, times as multiples of PAMR's:

{shims}

**When to take which.** For scores of a network, `crfrnn.refine` with parameters of your own, which the shim has none
of. PAMR itself where results must be PAMR's.
"""

MEASURE = """\
{count} photos of voc_animals/val with a DeepLab's 33×33 logits. Mean IoU in per cent, of all pixels and of those within
5 pixels of edges; after a CRF of θ 40/5/3 and weights 3 and 4, then of weights 3 and 1; other photos chose all of
these. Before a CRF, joint bilateral upsampling gains {before} points over bilinear, and after the first CRF {after}
(95 % intervals over photos). The time is that of the upsampling, in units of one `refine`."""

VERDICT = """\
Without a CRF after it, joint bilateral upsampling: it brings borders to the photo's
edges in less time than a refinement takes. With a CRF after it, bilinear: the CRF finds the edges by itself, and edges
that the scores have already then count twice; with both, take lighter weights. For features of a network and for
quantities, joint bilateral."""
