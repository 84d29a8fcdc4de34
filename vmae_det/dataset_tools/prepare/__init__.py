"""Preparation of public datasets: convert what a dataset's site offers to what the catalog expects.

May import: formats, video, the dataset catalog and the dataset checker. Each dataset is one module, named in
`preparers.PREPARERS`.
"""
