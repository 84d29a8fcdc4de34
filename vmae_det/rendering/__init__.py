"""What detections look like: overlay, timeline, page and result files.

May import: inference and everything below it.
"""

from vmae_det.rendering.overlay import PersonOverlay, draw_people
from vmae_det.rendering.plates import KIND_COLOURS, ActionLabel

__all__ = ["KIND_COLOURS", "ActionLabel", "PersonOverlay", "draw_people"]
