"""Imported once by the server from which the processes of `isolation` are forked. It reports nothing."""

from contextlib import suppress

# The checks import the same modules again and report what is broken.
for _module in ("torch", "vmae_det.engine.train", "torch._dynamo"):
    with suppress(BaseException):
        __import__(_module)
