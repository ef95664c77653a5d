"""How tables and plots call sides and deviations."""

NAMES = {
    "crfrnn": "crfrnn",
    "pydensecrf": "pydensecrf2",
    "pydensecrf_volume": "pydensecrf2",
    "simplecrf": "SimpleCRF",
    "crfseg": "crfseg",
    "layer": "forward",
    "layer_dense": "forward, tolerance 0",
    "layer_backward": "forward + backward",
    "segmenter": "whole",
    "segmenter_network": "network",
    "segmenter_kernels": "kernels",
    "compat": "compat",
    "refine": "refine",
    "refine-likely": "refine, 0.01",
    "dense": "tolerance 0",
    "lazy": "default tolerance",
    "step": "network alone",
    "step_crf": "with CRF-RNN",
}


def thetas(row: dict) -> str:
    return "/".join(f"{theta:g}" for theta in row["thetas"])
