"""Pictures for researchers: reconstructions, attention, batches, curves, embeddings, evaluation reports.

May import: rendering and everything below it.
"""

from vmae_det.visualization.reconstruction import reconstruction_grid, write_png

__all__ = ["reconstruction_grid", "write_png"]
