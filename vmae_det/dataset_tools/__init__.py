"""Tools for datasets before training: prepare public datasets, import annotations, check, pack into shards.

May import: formats, video and the dataset catalog. Training imports nothing from here.
"""
