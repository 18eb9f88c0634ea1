"""Pixels, geometry, heads and maps: numpy, PyTorch and OpenCV; no FiftyOne."""
