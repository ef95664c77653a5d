"""Gaussian kernels between points: built once per image, they know nothing of classes."""
