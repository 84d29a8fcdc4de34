"""Annotation files, read and written as arrays: AVA CSV, label maps, person boxes, tubes.

May import: config and utils. No torch, no video.
"""
