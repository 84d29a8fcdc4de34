"""Samples and batches for training and testing: dataset catalog, datasets, transforms, samplers and loader.

May import: formats, video and synthetic_data. Contains only what runs in training or evaluation.
"""
