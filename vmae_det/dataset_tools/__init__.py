"""What is done to a dataset before training: prepare, import, check and shard.

May import: formats, video and the dataset catalog.
"""
