"""Draws reconstructions, attention, training batches, curves, embeddings and evaluation reports.

May import rendering and everything below it; only the command line and benchmarks import it.
"""

from vmae_det.visualization.pictures import write_png
from vmae_det.visualization.reconstruction import reconstruction_grid

__all__ = ["reconstruction_grid", "write_png"]
