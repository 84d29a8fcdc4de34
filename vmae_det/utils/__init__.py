"""What every package may use: errors, files, downloads, logging, registries, processes.

May import: nothing else of vmae_det.
"""
