"""Samples and batches for training and testing: datasets, transforms, augmentation and the loader.

May import: formats, video and mini_ava. Everything here runs in a training or an evaluation.
"""
