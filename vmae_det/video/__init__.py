"""Video files and streams in, frames out: readers, tar shards, sources, temporal sampling, and a writer.

May import: config and utils. Contains nothing about annotations.
"""
