"""Inference in a dense CRF: kernels with weights and normalisation, the mean field over them, its energy."""
