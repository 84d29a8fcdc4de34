"""Files and streams in, frames out: readers, tar shards, sources, and which frames make a clip.

May import: config and utils. No annotations.
"""
