"""Draws reconstructions, attention, training batches, curves, embeddings, evaluation reports and reviews.

May import rendering and everything below it; only the command line and benchmarks import it.
"""

from vmae_det.utils.moved import moved_names
from vmae_det.visualization.pictures import write_png
from vmae_det.visualization.reconstruction import reconstruction_grid

__all__ = ["reconstruction_grid", "write_png"]

__getattr__ = moved_names(
    __name__,
    {
        "KIND_COLOURS": "vmae_det.rendering",
        "ActionLabel": "vmae_det.rendering",
        "PersonOverlay": "vmae_det.rendering",
        "VideoWriter": "vmae_det.video.writer",
        "draw_people": "vmae_det.rendering",
    },
)
