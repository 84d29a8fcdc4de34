"""`vmae-det serve`: detection and classification of videos that are sent to a page or an HTTP interface.

The server keeps one model in memory. Each video is decoded, and its results are written, in a process of its
own (`decoder.py`), which asks the server for scores (`messages.py`). A damaged video can crash that process
only.
"""
