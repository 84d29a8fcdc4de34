"""Study files: what they mean, and their errors with file and line."""

import pytest

from vmae_det.studies.study_file import Metric, find_study, parse_seeds, read_study, study_names
from vmae_det.utils.errors import ConfigError, DataError

STUDY = """\
title: Masks
question: Which mask?
seeds: [3, 5]
stages:
  pretrain:
    config: MiniAVA/pretrain.yaml
    metrics: [seconds]
  finetune:
    config: MiniAVA/finetune.yaml
    from: pretrain
    metrics: [top1]
    SOLVER.EPOCHS: 2
factors:
  mask:
    tube: {}
    random:
      pretrain: {MODEL.MASK.TYPE: random}
  ratio:
    0.75:
      pretrain: {MODEL: {MASK: {RATIO: 0.75}}}
    0.9:
skip:
  - {mask: random, ratio: 0.75}
base: {mask: tube, ratio: 0.9}
findings:
  - claim: Tube is better.
    source: a paper
    better: {mask: tube}
    worse: {mask: random}
    metric: finetune/top1
"""


@pytest.fixture
def read(tmp_path):
    def read_changed(old="", new=""):
        assert old in STUDY
        path = tmp_path / "own.yaml"
        path.write_text(STUDY.replace(old, new, 1))
        return read_study(path)

    return read_changed


def test_the_content(read):
    study = read()
    assert (study.name, study.title, study.seeds) == ("own", "Masks", (3, 5))
    assert list(study.stages) == ["pretrain", "finetune"]
    assert study.stages["finetune"].source == "pretrain"
    assert study.stages["finetune"].keys == {"SOLVER.EPOCHS": 2}
    assert study.metrics == (Metric("pretrain", "seconds"), Metric("finetune", "top1"))
    assert str(study.main_metric) == "finetune/top1"
    assert {name: list(levels) for name, levels in study.factors.items()} == {
        "mask": ["tube", "random"],
        "ratio": ["0.75", "0.9"],
    }
    assert study.factors["ratio"]["0.75"]["pretrain"].keys == {"MODEL.MASK.RATIO": 0.75}
    assert study.skip == ({"mask": "random", "ratio": "0.75"},)
    assert study.findings[0].worse == {"mask": "random"}


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("question:", "questions:", 2, "questions: unknown key; did you mean 'question'?"),
        (
            "seeds: [3, 5]",
            "seeds: [3, 3]",
            3,
            "seeds: expected a number of seeds, or a list of different seeds",
        ),
        ("seeds: [3, 5]", "seeds: true", 3, "seeds: expected a number of seeds"),
        (
            "config: MiniAVA/pretrain.yaml",
            "config: MiniAVA/pretrian.yaml",
            6,
            "no such config in the model zoo",
        ),
        ("metrics: [seconds]", "metrics: seconds", 7, "expected a list of names of metrics, got 'seconds'"),
        ("from: pretrain", "from: detect", 10, "expected an earlier stage (pretrain), got 'detect'"),
        ("SOLVER.EPOCHS: 2", "SOLVER.EPOCH: 2", 12, "no such config key; did you mean 'SOLVER.EPOCHS'?"),
        ("SOLVER.EPOCHS: 2", "SOLVER.EPOCHS: 0", 12, "must be in [1, 100000], got 0"),
        ("SOLVER.EPOCHS: 2", "SOLVER.EPOCHS: few", 12, "expected int such as 800, got 'few'"),
        ("SOLVER.EPOCHS: 2", "SEED: 2", 12, "set by the study itself"),
        (
            "SOLVER.EPOCHS: 2",
            "epochs: 2",
            12,
            "epochs: unknown key; expected config, from, metrics or config",
        ),
        (
            "      pretrain: {MODEL.MASK",
            "      pretain: {MODEL.MASK",
            17,
            "no such stage; did you mean 'pretrain'?",
        ),
        ("tube: {}", "yes: {}", 14, "put it in quotes"),
        ("random, ratio: 0.75", "randm, ratio: 0.75", 23, "randm: no such level; did you mean 'random'?"),
        ("base: {mask: tube, ratio: 0.9}", "base: {mask: tube}", 24, "ratio is missing"),
        ("base: {mask: tube, ratio: 0.9}", "base: {mask: random, ratio: 0.75}", 24, "one of those to skip"),
        ("metric: finetune/top1", "metric: finetune/top5", 30, "'finetune/top5' is not among the metrics"),
        ("worse: {mask: random}", "worse: {ratio: 0.9}", 29, "expected levels of the same factors"),
        ("worse: {mask: random}", "worse: {mask: tube}", 29, "the same levels as in better"),
        ("title: Masks", "title: Masks\ntitle: Masks", 2, "duplicate key 'title'"),
    ],
)
def test_an_error_names_file_line_and_remedy(read, tmp_path, old, new, line, expected):
    with pytest.raises(DataError) as error:
        read(old, new)
    assert str(error.value).startswith(f"{tmp_path / 'own.yaml'}:{line}: "), error.value
    assert expected in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", "title: a", "\0", "a: &a {b: *a}"])
def test_other_content_is_an_error(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"own\.yaml"):
        read_study(path)


def test_studies_of_the_model_zoo_are_found_by_name():
    assert "small" in study_names()
    for name in ("small", "small.yaml", "studies/small.yaml"):
        assert find_study(name).name == "small.yaml"
    with pytest.raises(ConfigError, match=r"smal: neither a study file .* did you mean 'small'"):
        find_study("smal")
    with pytest.raises(DataError, match="no such study file"):
        read_study(find_study("small").with_name("missing.yaml"))


def test_seeds():
    assert parse_seeds(3) == (0, 1, 2)
    assert parse_seeds([7, 5]) == (7, 5)
    for value in (0, -1, [], [1, 1], [2**32], [True], 2.0, "3"):
        with pytest.raises(ValueError, match="expected a number of seeds"):
            parse_seeds(value)
