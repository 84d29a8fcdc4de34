"""Annotation files, read and written as arrays: AVA CSV, label maps, person boxes, tubes, lists of videos.

May import: config and utils. No torch, no video.
"""
