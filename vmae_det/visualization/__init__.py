"""Pictures and videos: actions drawn on frames, H.264 files, reconstructions of pre-training."""

from vmae_det.visualization.overlay import PersonOverlay, draw_people
from vmae_det.visualization.plates import KIND_COLOURS, ActionLabel
from vmae_det.visualization.reconstruction import reconstruction_grid, write_png
from vmae_det.visualization.video_writer import VideoWriter

__all__ = [
    "KIND_COLOURS",
    "ActionLabel",
    "PersonOverlay",
    "VideoWriter",
    "draw_people",
    "reconstruction_grid",
    "write_png",
]
