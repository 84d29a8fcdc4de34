"""`vmae-det quickstart` on a MiniAVA with few videos."""

import shutil
from dataclasses import replace

import pytest
import simplejson

from vmae_det.cli.main import main
from vmae_det.cli.quickstart import _default_processes
from vmae_det.data import catalog
from vmae_det.utils import cpu

DETECTORS = ("detect_random", "detect_pretrained_finetuned")
STAGES = ("pretrain", "finetune", *DETECTORS)
SHORT = ["SOLVER.BATCH_SIZE", "2", "SOLVER.EPOCHS", "1", "SOLVER.WARMUP_EPOCHS", "0.0"]


@pytest.fixture
def quickstart(mini_ava, tmp_path, monkeypatch):
    def make_mini_ava(root):
        folder = root / "mini_ava"
        return folder if folder.exists() else shutil.copytree(mini_ava, folder)

    for name in [name for name in catalog._CATALOG if name.startswith("mini_ava_")]:
        entry = replace(catalog._CATALOG[name], prepare=make_mini_ava)
        monkeypatch.setitem(catalog._CATALOG, name, entry)
    folders = ["--output", tmp_path / "out", "--datasets", tmp_path / "datasets"]
    args = ["quickstart", "--num-gpus", "1", *folders]
    return lambda *more, options=(): main([str(arg) for arg in (*args, *options, *SHORT, *more)])


def test_all_stages_run_once_and_results_are_printed(quickstart, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "_flags", lambda: {"avx512_bf16"})
    assert not quickstart()
    printed = capsys.readouterr().out
    for row in ("random", "pre-trained, fine-tuned", "(chance)"):
        assert f"\n{row} " in printed
    for stage in STAGES:
        assert "  AMP: bf16\n" in (tmp_path / "out" / stage / "config.yaml").read_text()
    assert (tmp_path / "out" / "pretrain" / "reconstruction.png").stat().st_size > 1000
    assert len(list((tmp_path / "out" / "overlays").glob("*.mp4"))) == 2
    found, given = (
        simplejson.loads((tmp_path / "out" / name / "results.json").read_text())
        for name in ("detect_random", "detect_random_given_boxes")
    )
    assert given["person_recall50"] > 0.5 > found["person_recall50"]  # it was trained for two steps
    written = {stage: (tmp_path / "out" / stage / "model_final.pt").stat().st_mtime_ns for stage in STAGES}

    assert not quickstart()
    assert capsys.readouterr().out.count("already done") == len(STAGES) + len(DETECTORS)
    for stage in STAGES:
        assert (tmp_path / "out" / stage / "model_final.pt").stat().st_mtime_ns == written[stage]

    assert not quickstart(options=["--full"])
    printed = capsys.readouterr().out
    assert printed.count("already done") == len(STAGES) + len(DETECTORS)
    assert "\npre-trained  " in printed


def test_a_failed_stage_exits_with_its_status(quickstart, capsys):
    with pytest.raises(SystemExit) as end:
        quickstart("INPUT.NUM_FRAMES", "8", "SOLVER.BATCH_SIZE", "4000")
    assert end.value.code == 2
    assert "SOLVER.BATCH_SIZE: 4000" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "expected"), [("auto", 8), ("cpu", 2), ("mps", 1)])
def test_the_default_number_of_processes_depends_on_the_device(tiny_cfg, monkeypatch, device, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("vmae_det.utils.cpu.count_cores", lambda: 4)
    assert _default_processes(tiny_cfg("pretrain", "MODEL.DEVICE", device)) == expected
