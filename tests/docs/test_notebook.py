"""The cells of notebooks/quickstart.ipynb, executed in order with a tiny dataset and a tiny model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmae_det.synthetic_data.mini_ava import TINY

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
pytestmark = pytest.mark.skipif(not NOTEBOOK.is_file(), reason="the notebook is part of a clone")
QUICK = (
    "MODEL.DEVICE cpu MODEL.BACKBONE.EMBED_DIM 24 MODEL.BACKBONE.DEPTH 1 MODEL.BACKBONE.NUM_HEADS 2 "
    "DATALOADER.NUM_WORKERS 0 SOLVER.BATCH_SIZE 4 SOLVER.WARMUP_EPOCHS 0.0"
)


def cells():
    """Return the cells; code cells as (source, tags)."""
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def source_of(cell):
    return "".join(cell["source"])


def run(source, names):
    """Execute a cell and return the value of its last line, as Jupyter shows it; None if it ends with `;`."""
    *lines, last = source.splitlines()
    if re.match(r"[\w.]+(\(.*\)|\[.*\])?$", last):
        exec("\n".join(lines), names)
        return eval(last, names)
    return exec(source, names)


def test_cells_run_in_order(mini_ava, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, shown = {}, {}
    for cell in cells():
        if cell["cell_type"] == "code":
            shown[cell["id"]] = run(source_of(cell), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names.update(DATA=str(mini_ava), SIZE=TINY, PRETRAIN_EPOCHS=1, DETECT_EPOCHS=1)
                names.update(KEYS=QUICK.split())

    pictures = {id_ for id_, value in shown.items() if isinstance(value, Image.Image)}
    assert pictures == {"batch", "reconstruction", "picture"}
    assert shown["detect"] == names["result"].mean_ap
    plain = Image.fromarray(names["frame"])
    assert np.any(np.asarray(shown["picture"]) != np.asarray(plain))  # detections are drawn
    printed = capsys.readouterr().out
    assert "type: detection" in printed
    assert re.search(r"^frame-mAP +\d\.\d\d \(chance \d\.\d\d\)$", printed, re.MULTILINE)
    assert not list(tmp_path.glob("datasets*"))


def test_it_has_no_outputs_and_text_between_the_cells():
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert len(cell["source"]) <= 18
        else:
            assert len(source_of(cell).split()) < 80
    assert len({cell["id"] for cell in cells()}) == len(cells())


def test_links_resolve():
    links = re.findall(r"\]\(([^)]+)\)", "\n".join(map(source_of, cells())))
    assert len(links) > 1
    assert not [link for link in links if not (NOTEBOOK.parent / link).is_file()]
