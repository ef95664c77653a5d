"""PAMR's module signature over the dense CRF: the same call, another method, other results.

PAMR (Araslanov & Roth 2020) averages probabilities over 3×3 neighbours at some dilations, a few times. The dense CRF
compares all pixels and keeps the scores it was given in every iteration. This is for code that calls PAMR and wants
to try the CRF in its place; docs/benchmarks.md has both side by side.
"""

from collections.abc import Sequence

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError(
        "crfrnn.compat.pamr needs PyTorch, which is not installed: pip install 'crfrnn[torch]'"
    ) from error

from crfrnn.numbers import whole_number
from crfrnn.parameters import CRFParameters
from crfrnn.terms import speaking
from crfrnn.torch import mean_field
from crfrnn.torch.scene import check_scores, check_tensor
from crfrnn.torch.upsampling import check_pair, in_contrasts

FLOOR = 1e-5
"""Smaller probabilities count as this one."""

TERMS = {
    "image holds": "x holds",
    "image has": "x has",
    "logits[": "mask[",
    "scores have": "mask has",
    ", or take filter='exact'": "",
}


class PAMR(nn.Module):
    """Refine a mask with an image by a dense CRF.

    θ_α is the largest dilation, and θ_β what each image's contrast suggests, so that the range of its levels does not
    matter. Weights are those of CRF-RNN, 3 and 5.

    Args:
        num_iter: Iterations of mean field.
        dilations: How far PAMR looks; the largest is θ_α in pixels.
    """

    def __init__(self, num_iter: int = 1, dilations: Sequence[int] = (1,)) -> None:
        super().__init__()
        self.num_iter = whole_number(num_iter, "num_iter")
        given = dilations if isinstance(dilations, list | tuple | range) else []
        self.dilations = [whole_number(each, "dilations") for each in given]
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations={dilations!r} must be a list of whole numbers above 0, at least one")

    @speaking(TERMS)
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Refined probabilities.

        Args:
            x: (B, K, H, W), the image; it gets no gradient.
            mask: (B, C, h, w) probabilities of C classes, brought to the size of the image if they are smaller, with
                the corners of both coinciding (PAMR: the centres of the corner pixels). They get a gradient.
        Returns: (B, C, H, W), summing to 1 over classes. For C = 1 that of the foreground.
        Raises:
            TypeError: if these are no tensors of numbers.
            ValueError: if shapes do not fit or values are not finite.
        """
        check_tensor("x", x)
        check_scores("mask", mask)
        check_pair(mask, x, "mask")
        image = x.detach() if x.dtype == torch.float64 else x.detach().float()  # squares of levels overflow 16 bits
        probabilities = mask.clamp(min=FLOOR)
        logits = probabilities.log()
        if mask.shape[1] == 1:
            logits = logits - (1 - mask).clamp(min=FLOOR).log()
        parameters = CRFParameters(
            theta_alpha=max(self.dilations), theta_beta=1.0, theta_gamma=3.0, iterations=self.num_iter
        )
        return mean_field(
            logits,
            in_contrasts(image),
            parameters=parameters,
            upsampling="bilinear",
            return_probabilities=True,
        )
