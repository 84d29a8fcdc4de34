"""Draws detections: overlays on frames, timelines, HTML pages, and the files with the results of a video.

May import inference and everything below it; must not import visualization.
"""

from vmae_det.rendering.label_drawing import ActionLabel
from vmae_det.rendering.overlay import PersonOverlay, draw_classes, draw_people
from vmae_det.rendering.style import KIND_COLORS

KIND_COLOURS = KIND_COLORS  # the name in version 0.1

__all__ = ["KIND_COLORS", "KIND_COLOURS", "ActionLabel", "PersonOverlay", "draw_classes", "draw_people"]
