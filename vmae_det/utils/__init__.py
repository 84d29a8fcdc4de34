"""Helpers for every package: errors, files, downloads, logging, registries, processes, CPU and memory.

May import: no other package of vmae_det.
"""
