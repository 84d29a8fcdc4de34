"""Fixtures of the tests of inference."""

import pytest

from vmae_det.inference.export import exporter


@pytest.fixture(scope="module")
def trace_once():
    """Trace each model once for both formats of exported files."""
    trace, programs = exporter.trace, {}

    def cached(graph, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""
        key = type(graph).__name__ + cfg.dump()
        if key not in programs:
            programs[key] = trace(graph, cfg)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", cached)
        yield
