"""The words of docs/filters.md; `experiments/filters.py` puts the figures in."""

PAGE = """\
# One filter, other jobs

The lattice under the CRF does more than pass messages: it brings scores to the size of a photo, fills holes, and
smooths along edges. This page is written by `python -m experiments.filters`. Times are ratios of processor time on one
core of an AMD EPYC. All snippets share these inputs:

```python
import numpy as np
from PIL import Image

import crfrnn
from crfrnn import Bilateral

scores = np.load("scores33.npy")  # (21, 33, 33), a network's logits of the whole photo
photo = np.asarray(Image.open("photo.jpg"))  # (366, 500, 3), 0-255
```

## Scores smaller than the photo

Networks score a grid that is 4 to 16 times coarser than the photo. `upsampling=` says how `refine`, `CrfRnn`,
`crfrnn.torch.mean_field` and Keras' `CrfRnnLayer` bring such scores to the size of the photo. Without it, scores of
another size are an error. At the command line `--upsampling` says it, and bilinear is the default.

```python
refined = crfrnn.refine(scores, photo, upsampling="joint-bilateral")  # to the photo's size, then the CRF
larger = crfrnn.upsample(scores, photo)  # to the photo's size only, (21, 366, 500)
```

```sh
crfrnn refine scores33.npy photo.jpg -o labels.png --upsampling joint-bilateral
```

`upsample` takes any values with their channels first: features of a network, or a map of depth as `depth[None]`. In
torch it is `crfrnn.torch.upsample(scores, images)`, with a batch and channels first, and gradients go to both. Values
that already have the photo's size are smoothed by it, whereas `upsampling=` leaves them as they are.

`"bilinear"` interpolates. `"joint-bilateral"` lets each pixel average the low pixels around it that have its colour
([algorithm.md](algorithm.md), eq. 33; Kopf et al. 2007). A pixel unlike all of these keeps the interpolated value.

{upsampling}

{measure}

![Bilinear and joint bilateral upsampling, without and with the CRF](filters-upsampling.jpg)

**When to take which.** {verdict}

**Alignment.** The corners of both grids coincide (`align_corners=False` in other libraries). With s the distance
between low pixels, low pixel i has its centre at (i + ½) s - ½ in pixels of the photo, and the photo's colour there.

If the network saw a photo that was padded below and to the right, give `upsample` the size of what it saw as `covers`,
(height, width) in pixels of the photo. These are `(513, 513)` for a photo of 500×366 padded to a square of 513, and
`(500, 500)` if it was enlarged until its longer side was 513. The CRF comes after: `crfrnn.refine(larger, photo)`. At
the command line `--square-scores` says the latter.

**Deviations.** θ_α is s and θ_β is 4 × `contrast_theta_beta(photo)`, so that levels may have any range;
`upsample(scores, photo, Bilateral(theta_alpha, theta_beta))` takes others. `Exact()` in the place of the lattice sums
over all pairs of pixels, in O(N²) time. Any channels of scores and image and 1 to 3 spatial axes work; a lattice takes
at most 16 axes and channels of the image together.

## The bilateral solver

`crfrnn.bilateral_solver(target, confidence, photo)` finds values that are near the target where it is certain, and
smooth along the photo's edges everywhere (Barron & Poole 2016; [algorithm.md](algorithm.md), eq. 34 and 35). It fills
in what has no confidence, across any distance: depth with holes, a mask known in places, colours from strokes.

```python
depth = np.linspace(1, 5, photo[..., 0].size).reshape(photo.shape[:2])  # (height, width), metres
depth[4:8, 4:8] = np.nan  # a hole
known = np.isfinite(depth)

filled = crfrnn.bilateral_solver(np.nan_to_num(depth), known, photo)
flatter = crfrnn.bilateral_solver(np.nan_to_num(depth), known, photo, Bilateral(12, 2), smoothness=256)
```

The confidence is any number of at least 0 for each pixel. `Bilateral(θ_α, θ_β)` says which pixels are neighbours, in
pixels and in levels, and `smoothness` is λ, what their agreement counts beside the target. Where the confidence is 0,
the target may have any finite value.

![Target, confidence and solution](filters-solver.jpg)

The published program quantises pixels into cells of a grid; here they lie on the lattice, and a cell of side σ becomes
a Gaussian of deviation σ/2. `crfrnn.compat.bilateral_solver` has the signatures of OpenCV's `fastBilateralSolverFilter`
and of `bilateral_solver_output`. Their solutions are near the published ones, not equal, and take longer, as a
lattice is finer than the cells. With `sigma_spatial`, `sigma_luma` and `sigma_chroma` of 24, 4 and 4 and λ = 256, on
the foreground of

| photo | mean change of the target | mean difference to the published | pixels on the other side of ½ | time, of its |
| --- | --- | --- | --- | --- |
{solver}

**When to take which.** The CRF for class scores: it has a model of labels, and [benchmarks](benchmarks.md) has both
side by side. The solver for quantities, and where large parts are unknown. One filter,
`crfrnn.torch.gaussian_filter(values, features)`, where a local mean will do: the solver takes about {solves:.0f} times
as long as building a lattice and filtering with it once.

## MONAI's bilateral filters

`crfrnn.compat.monai` has `BilateralFilter`, `TrainableBilateralFilter` and `TrainableJointBilateralFilter`. The
trainable ones learn their deviations, on the lattice or, with `filter="exact"`, by sums over all pairs of pixels.

```python
import torch

from crfrnn.compat.monai import TrainableBilateralFilter

noisy = torch.rand(1, 1, 48, 48)  # (batch, channels, height, width)
denoise = TrainableBilateralFilter(spatial_sigma=1.0, color_sigma=0.5)  # pixels, and levels of the image
loss = (denoise(noisy) - noisy.mean()).square().mean()  # your own
loss.backward()  # to denoise.sigma_x, sigma_y and sigma_color
```

![A noisy patch, filtered on the lattice and over all pairs](filters-monai.jpg)

{monai}

**When to take which.** `fast_approx=True` and `filter="lattice"`, the defaults, for images; the exact sum for small
patches and as the truth. MONAI cuts its windows at 2.5 deviations; nothing is cut here.

## PAMR's signature

```python
from crfrnn.compat.pamr import PAMR

images, masks = torch.rand(1, 3, 48, 48), torch.rand(1, 21, 12, 12).softmax(dim=1)
probabilities = PAMR(num_iter=10, dilations=[1, 2, 4, 8, 12, 24])(images, masks)  # (1, 21, 48, 48)
```

This is a dense CRF behind PAMR's call: another method, for code that wants to try it. θ_α is the largest dilation, θ_β
comes from each image's contrast, the weights are 3 and 5. On {shimmed} of the photos, with 10 iterations and
dilations 1 to 24, times as multiples of PAMR's:

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
