"""Built-in synthetic datasets: generated on first use, then cached. Each subpackage is one dataset.

May import: formats, utils. Everything else is standard library, NumPy, OpenCV and PyAV.
"""
