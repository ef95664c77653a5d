"""What people use in the place of a dense CRF, as sides of `child.py`: functions of logits, photo and settings."""

import numpy as np


def on_planes(logits, image, refine):
    """A call of `refine` with probabilities (C, H, W) and photo (3, H, W) from 0 to 1, tensors."""
    import torch

    def call():
        photo = torch.from_numpy(image).movedim(-1, 0).float() / 255
        return refine(torch.from_numpy(logits).softmax(0), photo).numpy()

    return torch.inference_mode()(call)


def guided_blur(logits, image, settings):
    from kornia.filters import guided_blur

    return on_planes(logits, image, lambda q, photo: guided_blur(photo[None], q[None], separable=True, **settings)[0])


def joint_bilateral_blur(logits, image, settings):
    from kornia.filters import joint_bilateral_blur

    space = settings["sigma_space"]
    size = 2 * int(settings["reach"] * space) + 1
    return on_planes(
        logits,
        image,
        lambda q, photo: joint_bilateral_blur(q[None], photo[None], size, settings["sigma_color"], (space, space))[0],
    )


def pamr(logits, image, settings):
    from .pamr import pamr

    return on_planes(logits, image, lambda q, photo: pamr(q, photo, **settings))


def bilateral_solver(logits, image, settings):
    from .bilateral_solver import bilateral_solver

    options = {name: value for name, value in settings.items() if name != "trust"}

    def call():
        exponentials = np.exp(logits - logits.max(axis=0))
        probabilities = exponentials / exponentials.sum(axis=0)
        return bilateral_solver(probabilities, probabilities.max(axis=0) ** settings["trust"], image, **options)

    return call


SMOOTHERS = (guided_blur, joint_bilateral_blur, pamr, bilateral_solver)
