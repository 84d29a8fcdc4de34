"""Helper: traces each model once for both formats of exported files."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vmae_det.inference.export import exporter


@contextmanager
def cached_traces() -> Iterator[None]:
    """Trace models of the same config once. Their weights must be the same."""
    trace, programs = exporter.trace, {}

    def cached(graph, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""
        key = cfg.dump()
        if key not in programs:
            programs[key] = trace(graph, cfg)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", cached)
        yield
