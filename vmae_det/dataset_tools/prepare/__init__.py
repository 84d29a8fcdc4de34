"""Preparation of public datasets: convert the official files of a dataset to the format of the catalog.

May import: formats, video, the dataset catalog and the dataset checker. Each dataset is one module, named in
`preparers.PREPARERS`.
"""
