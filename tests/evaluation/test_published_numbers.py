"""Results of the original evaluators on real files, if these files are next to the repository."""

import json
from pathlib import Path

import pytest

from vmae_det.cli import main as cli_main

REAL = Path(__file__).resolve().parents[3] / "shared" / "cases" / "real"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the files are not at {REAL}")


def evaluate(tmp_path, *arguments):
    paths = [str(REAL / word) if "/" in word else word for word in arguments]
    out = tmp_path / "out.json"
    assert cli_main.main(["evaluate", *paths, "--json", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("truth", "found", "protocol", "expected"),
    [
        ("multisports/gt_tubes.csv", "multisports/det_frames.csv", "multisports", {"frame": 83.6506}),
        (
            "multisports/gt_tubes.csv",
            "multisports/det_tubes.csv",
            "multisports",
            {"0.2": 37.5, "0.5": 37.5, "0.10:0.90": 29.1667, "0.5:0.95": 21.25, "0.05:0.45": 37.5},
        ),
        (
            "multisports/env_gt.csv",
            "multisports/env_det.csv",
            "multisports",
            {"0.2": 66.6667, "0.5": 66.6667},
        ),
        ("multisports/gt_kick.csv", "multisports/det_tubes.csv", "multisports", {"0.2": 50.0, "0.5": 50.0}),
        *(
            (
                "act_jhmdb/gt.csv.gz",
                "act_jhmdb/det.csv.gz",
                protocol,
                {"0.2": 66.37306930537618, "0.5": 28.383394, "0.5:0.95": 7.443274},
            )
            for protocol in ("act", "jhmdb", "ucf101-24")
        ),
        (
            "act_jhmdb/gt_p1.csv.gz",
            "act_jhmdb/det_p1.csv.gz",
            "continuous",
            {"0.2": 66.37306930537618, "0.5": 28.383394, "0.5:0.95": 7.443274},
        ),
        (
            "act_jhmdb/gt.csv.gz",
            "act_jhmdb/det.csv.gz",
            "multisports",
            {"0.2": 68.10813646140033, "0.5": 29.054334066961797},
        ),
    ],
)
def test_tubes(tmp_path, truth, found, protocol, expected):
    result = evaluate(tmp_path, "--ground-truth", truth, "--tubes", found, "--protocol", protocol)
    given = result["video_mAP"] | {"frame": result["frame_mAP"]}
    for name, value in expected.items():
        # To the published number of digits.
        digits = len(str(value).partition(".")[2])
        assert 100 * given[name] == pytest.approx(value, abs=max(0.51 * 10**-digits, 1e-11)), name


AVA = ["--ground-truth", "ava_yowov3/gt_one.csv"]
AVA += ["--label-map", "ava_yowov3/ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt"]


def test_the_challenge_and_slowfast(tmp_path):
    unique = [*AVA, "--detections", "ava_yowov3/det_unique.csv"]
    assert evaluate(tmp_path, *unique)["mAP"] == pytest.approx(0.40518875531959825, abs=1e-15)
    excluded = [*unique, "--protocol", "slowfast", "--excluded", "ava_yowov3/excl.csv"]
    assert evaluate(tmp_path, *excluded)["mAP"] == pytest.approx(0.4050497320948414, abs=1e-15)


def test_published_order_of_ties_is_within_the_range(tmp_path):
    tied = [*AVA, "--detections", "ava_yowov3/ava_predicted_file.csv", "--protocol"]
    for protocol, theirs in (("challenge", 0.4051999528), ("slowfast", 0.4042400530)):
        low, high = evaluate(tmp_path, *tied, protocol)["mAP_range"]
        assert low < theirs < high
        assert high - low < 2e-4


def test_mmaction2(tmp_path):
    files = ["--ground-truth", "mmaction2/gt.csv", "--detections", "mmaction2/pred.csv"]
    result = evaluate(tmp_path, *files, "--label-map", "mmaction2/action_list.txt", "--protocol", "mmaction2")
    assert result["mAP"] == pytest.approx(0.09385522, abs=5e-9)
