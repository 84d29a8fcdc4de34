"""Backbones: networks from a video to a grid of tokens. `base.py` is their interface."""
