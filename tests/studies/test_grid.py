"""The grid of a study: configs of its cells, and runs that cells share."""

import pytest

from vmae_det import model_zoo
from vmae_det.studies.grid import build_grid
from vmae_det.studies.study_file import find_study, read_study, study_names
from vmae_det.utils.errors import ConfigError, DataError

STUDY = """\
title: T
question: Q?
seeds: 2
stages:
  pretrain: {config: MiniAVA/pretrain.yaml}
  finetune: {config: MiniAVA/finetune.yaml, from: pretrain, metrics: [top1]}
  detect: {config: MiniAVA/detect.yaml, from: finetune, metrics: [frame_mAP, person_AP50, seconds]}
factors:
  start:
    pre-trained: {}
    scratch: {pretrain: null}
    image:
      pretrain: null
      finetune: {MODEL.BACKBONE.CHECKPOINT: mae.pth}
    direct: {finetune: null}
  rate:
    0.1: {detect: {SOLVER.BASE_LR: 0.1}}
    0.2: {detect: {SOLVER.BASE_LR: 0.2}}
"""


@pytest.fixture
def study(tmp_path):
    def write(old="", new="", name="own"):
        assert old in STUDY
        path = tmp_path / f"{name}.yaml"
        path.write_text(STUDY.replace(old, new, 1))
        return read_study(path)

    return write


def cell(grid, *levels):
    return next(cell for cell in grid.cells if tuple(cell.levels.values()) == levels)


def test_cells_have_the_stages_that_their_levels_leave(study):
    grid = build_grid(study())
    assert [cell.name for cell in grid.cells][:3] == ["pre-trained, 0.1", "pre-trained, 0.2", "scratch, 0.1"]
    runs = cell(grid, "pre-trained", "0.1").runs
    assert set(runs) == {(stage, seed) for stage in ("pretrain", "finetune", "detect") for seed in (0, 1)}
    assert runs["detect", 1].parent is runs["finetune", 1]
    assert runs["finetune", 1].parent is runs["pretrain", 1]
    assert runs["detect", 1].cfg.SEED == 1
    assert runs["detect", 1].cfg.SOLVER.BASE_LR == 0.1

    runs = cell(grid, "scratch", "0.1").runs
    assert ("pretrain", 0) not in runs
    assert runs["finetune", 0].parent is None
    runs = cell(grid, "image", "0.1").runs
    assert runs["finetune", 0].parent is None
    assert runs["finetune", 0].cfg.MODEL.BACKBONE.CHECKPOINT == "mae.pth"
    runs = cell(grid, "direct", "0.1").runs
    assert runs["detect", 0].parent is runs["pretrain", 0]


def test_equal_runs_of_different_cells_are_one_run(study):
    grid = build_grid(study())
    first, second = cell(grid, "pre-trained", "0.1").runs, cell(grid, "pre-trained", "0.2").runs
    assert first["pretrain", 0] is second["pretrain", 0]
    assert first["finetune", 0] is second["finetune", 0]
    assert first["detect", 0] is not second["detect", 0]
    assert first["pretrain", 0] is cell(grid, "direct", "0.2").runs["pretrain", 0]
    # 1 pre-training, 3 fine-tunings, 4 x 2 detectors, of two seeds
    assert len(grid.runs()) == 2 * (1 + 3 + 8)
    order = grid.runs()
    assert all(run.parent is None or order.index(run.parent) < order.index(run) for run in order)
    assert [run.cfg.SEED for run in order] == [0] * 12 + [1] * 12


def test_the_name_of_a_run_depends_on_its_config_and_on_what_it_starts_from(study):
    def names(grid):
        return {key: run.name for key, run in cell(grid, "pre-trained", "0.1").runs.items()}

    before = names(build_grid(study()))
    assert names(build_grid(study("title: T", "title: U", name="other"))) == before
    assert names(build_grid(study(), opts=["OUTPUT_DIR", "elsewhere", "WANDB.PROJECT", "p"])) == before
    after = names(build_grid(study("pretrain.yaml}", "pretrain.yaml, MODEL.MASK.RATIO: 0.8}")))
    assert not set(after.values()) & set(before.values())  # the upstream config changes all stages
    after = names(build_grid(study("0.1: {detect", "0.1: {finetune: {SOLVER.EPOCHS: 3}, detect")))
    assert after["pretrain", 0] == before["pretrain", 0]
    assert after["finetune", 0] != before["finetune", 0]
    assert after["detect", 0] != before["detect", 0]


def test_overrides_and_seeds_of_the_command_line(study):
    grid = build_grid(study(), seeds=[7], opts=["SOLVER.EPOCHS", "3"], datasets="d")
    assert {run.cfg.SEED for run in grid.runs()} == {7}
    assert {(run.cfg.SOLVER.EPOCHS, run.cfg.DATASETS.ROOT) for run in grid.runs()} == {(3, "d")}
    with pytest.raises(ConfigError, match=r"SOLVER\.EPOCH: no such config key"):
        build_grid(study(), opts=["SOLVER.EPOCH", "3"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "metrics: [top1]",
            "metrics: [top_1]",
            ":6: finetune/top_1: VideoClassifier has no such metric; did you mean",
        ),
        (
            "metrics: [frame_mAP",
            "metrics: [frame_AP",
            ":7: detect/frame_AP: ActionDetector has no such metric",
        ),
        (
            "pretrain.yaml}",
            "pretrain.yaml, metrics: [top1]}",
            ":5: pretrain/top1: MaskedAutoencoder has no such",
        ),
        (
            "direct: {finetune: null}",
            "direct: {finetune: {MODEL.BACKBONE.CHECKPOINT: w.pth}}",
            ":15: start direct, rate 0.1, stage finetune: MODEL.BACKBONE.CHECKPOINT is set, but",
        ),
        (
            "0.1: {detect: {SOLVER.BASE_LR: 0.1}}",
            "0.1: {detect: {INPUT.NUM_FRAMES: 7}}",
            "start pre-trained, rate 0.1, stage detect: INPUT.NUM_FRAMES: ",
        ),
        (
            "direct: {finetune: null}",
            "direct: {pretrain: null, finetune: null, detect: null}",
            "start direct, rate 0.1: all stages are skipped",
        ),
    ],
)
def test_an_error_names_cell_and_stage(study, old, new, expected):
    with pytest.raises(DataError) as error:
        build_grid(study(old, new))
    assert expected in str(error.value)


@pytest.mark.parametrize("name", study_names())
def test_the_studies_of_the_model_zoo_are_valid(name):
    grid = build_grid(read_study(find_study(name)))
    assert len(grid.cells) > 1
    for cell in grid.cells:
        assert {stage for stage, _ in cell.runs} & {metric.stage for metric in grid.study.metrics}


def test_studies_are_not_configs():
    assert not [name for name in model_zoo.config_names() if name.startswith("studies")]


def test_changes_of_a_combination_follow_those_of_its_levels(study):
    grid = build_grid(
        study(
            "    0.2: {detect: {SOLVER.BASE_LR: 0.2}}\n",
            "    0.2: {detect: {SOLVER.BASE_LR: 0.2}}\n"
            "combinations:\n"
            "  - levels: {start: scratch, rate: 0.2}\n"
            "    finetune: {SOLVER.EPOCHS: 7}\n"
            "    detect: {SOLVER.BASE_LR: 0.3, SOLVER.EPOCHS: 9}\n",
        )
    )
    changed = cell(grid, "scratch", "0.2").runs
    assert changed["finetune", 0].cfg.SOLVER.EPOCHS == 7
    assert (changed["detect", 0].cfg.SOLVER.BASE_LR, changed["detect", 0].cfg.SOLVER.EPOCHS) == (0.3, 9)
    unchanged = [cell(grid, "scratch", "0.1").runs, cell(grid, "pre-trained", "0.2").runs]
    assert [runs["detect", 0].cfg.SOLVER.BASE_LR for runs in unchanged] == [0.1, 0.2]
    assert [runs["finetune", 0].cfg.SOLVER.EPOCHS for runs in unchanged] == [10, 10]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("levels: {start: scrach}\n    finetune: {SOLVER.EPOCHS: 7}", "scrach: no such level"),
        ("levels: {start: scratch}\n    finetun: {SOLVER.EPOCHS: 7}", "no such stage"),
        ("finetune: {SOLVER.EPOCHS: 7}", "expected levels by factor"),
    ],
)
def test_a_combination_that_is_invalid(study, entry, message):
    with pytest.raises(DataError, match=message):
        study("factors:\n", f"combinations:\n  - {entry}\nfactors:\n")
