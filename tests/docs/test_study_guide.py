"""The study of docs/study.md, as a stranger would copy it."""

import re
from pathlib import Path

import pytest

from vmae_det.cli.main import main
from vmae_det.studies.study_file import MEASURES

PAGE = Path(__file__).parents[2] / "docs" / "study.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason="the documentation is in a clone only")


@pytest.fixture
def site(tmp_path, monkeypatch):
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "my_study.yaml").write_text(example)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_has_the_runs_that_the_page_states(site, capsys):
    assert main(["study", "my_study.yaml", "--dry-run"]) == 0
    assert "4 cells, 15 runs, 0 of them finished" in capsys.readouterr().out


def test_the_example_runs(site, tiny_cfg, capfd):
    """With configs of the same names next to the file, which are smaller."""
    (site / "MiniAVA").mkdir()
    for task in ("pretrain", "finetune"):
        cfg = tiny_cfg(task, "INPUT.CROP_SIZE", 32, "MODEL.BACKBONE.DEPTH", 1, "SOLVER.BATCH_SIZE", 2)
        (site / "MiniAVA" / f"{task}.yaml").write_text(cfg.dump())
    assert main(["study", "my_study.yaml", "--workers", "1", "--seeds", "1", "SOLVER.EPOCHS", "1"]) == 0
    printed = capfd.readouterr().out
    assert "finetune/top1 by initialization and rate" in printed
    assert "Pre-training helps. [Tong et al. 2022, Table 2]" in printed
    assert (site / "output" / "studies" / "my_study" / "table.md").exists()


def test_the_measures_are_listed():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT.partition("| measure |")[2], re.MULTILINE)
    assert rows == list(MEASURES)
