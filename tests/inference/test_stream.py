"""The clips, persons and scores of a stream equal those read by random access."""

import logging
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, numbers, write_numbered, x264
from odd_videos import UNREADABLE

from vmae_det.data import transforms
from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.keyframe_clips import ClipCutter, KeyframePlan, RegularTimes, plan_keyframes
from vmae_det.inference.person_sources import DetectedPersons, PersonSource, WholeFramePerson
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.inference.tracking import link
from vmae_det.rendering.box_interpolation import BoxInterpolator
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import keyframe_clip
from vmae_det.video.sources import FileSource, Frame, VideoSource

VARIABLE = np.cumsum(np.random.default_rng(0).integers(8, 90, 90)) + 100
FILES = {
    "even": Recipe(count=90, options=x264(keyint=30)),
    "variable": Recipe(stamps=VARIABLE, time_base=Fraction(1, 1000), options=x264(keyint=25)),
    "short": Recipe(count=5),
    "one_frame": Recipe(count=1),
}
ROTATED = Recipe(count=60, rotation=90, options=x264(keyint=12, bframes=2))


class UnknownLength(VideoSource):
    """A source of unknown length, as of a URL."""

    def __init__(self, reader):
        self._reader, self.name, self.rate = reader, str(reader.path), reader.rate

    def frames(self, first=0, wanted=None):
        for index, image in self._reader.stream(first):
            yield Frame(index, float(self._reader.times[index]), image)


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("detect", "INPUT.NUM_FRAMES", 8, "INPUT.SAMPLING_RATE", 3, "TEST.BATCH_SIZE", 3)


def means(clips):
    """Stand in for a model: the scores of a person are the means of the clip's frames."""
    return [
        np.tile(item.clip.video.float().mean(dim=(0, 2, 3)).numpy(), (len(item.boxes), 1)) for item in clips
    ]


def random_access(path, cfg, every):
    """Return the times of the keyframes, and `means` of their clips, each read by itself."""
    reader, node = open_video(path), cfg.INPUT
    times = np.arange(0, reader.times[-1] + 1e-9, every)
    results = []
    for time in times:
        center = int(np.abs(reader.times - time).argmin())
        frames = reader.frames(keyframe_clip(center, len(reader), node.NUM_FRAMES, node.SAMPLING_RATE))
        clip = transforms.full_frame_transform(transforms.make_clip(frames), cfg)
        results.append(transforms.to_video(clip).float().mean(dim=(0, 2, 3)).numpy())
    return times, np.array(results)


def streamed(source, cfg, every=0.4, persons=None, **options):
    options = StreamOptions(**options)
    plan = plan_keyframes(source, cfg, None, every, options.start, options.end)
    with ActionStream(source, plan, persons or WholeFramePerson(), means, cfg, options) as stream:
        return list(stream), stream


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_stream_equals_random_access(tmp_path, cfg, name, overlap):
    path = write_numbered(tmp_path / "video", FILES[name])
    times, expected = random_access(path, cfg, 0.4)
    for source in (FileSource(open_video(path)), UnknownLength(open_video(path))):
        results, _ = streamed(source, cfg, overlap=overlap)
        np.testing.assert_allclose([result.time for result in results], times)
        np.testing.assert_array_equal(np.concatenate([result.scores for result in results]), expected)


def test_rotated_video_is_upright(tmp_path, cfg):
    path = write_numbered(tmp_path / "video", ROTATED)
    seen = []

    class Numbers(PersonSource):
        def __call__(self, time, frame):
            seen.extend(numbers([frame]))
            return WholeFramePerson()(time, frame)

    streamed(FileSource(open_video(path)), cfg, every=0.4, persons=Numbers())
    assert seen == [0, 10, 20, 30, 40, 50]


def test_part_of_a_video(tmp_path, cfg):
    path = write_numbered(tmp_path / "video", FILES["even"])
    times, expected = random_access(path, cfg, 0.4)
    source = FileSource(open_video(path))
    results, _ = streamed(source, cfg, start=1.2, end=2.1)
    np.testing.assert_allclose([result.time for result in results], times[3:6])
    np.testing.assert_array_equal(np.concatenate([result.scores for result in results]), expected[3:6])
    with pytest.raises(DataError, match=r"no keyframe from second 99 on: its last frame is at second \d+"):
        streamed(source, cfg, start=99)


def test_each_frame_is_decoded_and_resized_once(tmp_path, cfg, monkeypatch):
    path = write_numbered(tmp_path / "video", FILES["even"])
    resized, transform = [], transforms.full_frame_transform
    monkeypatch.setattr(
        transforms, "full_frame_transform", lambda *args: resized.append(1) or transform(*args)
    )
    reader = open_video(path)
    given = []
    stream = reader.stream
    monkeypatch.setattr(reader, "stream", lambda *args: (given.append(f) or f for f in stream(*args)))
    streamed(
        FileSource(reader), cfg, every=0.12
    )  # a keyframe every third frame; a frame is in up to eight clips
    assert len(given) == 31
    assert len(resized) == 31  # including the last frame


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_reader_streams_from_a_frame_or_only_wanted_frames(tmp_path, reader):
    if reader == "decord":
        pytest.importorskip("decord", reason="not built for this platform")
    path = write_numbered(tmp_path / "video", Recipe(count=300, options=x264(keyint=20, bframes=2)))
    opened = open_video(path, reader)
    for first in (0, 33, 299):
        frames = list(opened.stream(first))
        assert [index for index, _ in frames] == numbers([f for _, f in frames]) == list(range(first, 300))
    assert list(opened.stream(300)) == []
    wanted = np.array([3, 5, 64, 65, 280])
    frames = list(opened.stream(wanted=wanted))
    assert [index for index, _ in frames] == numbers([f for _, f in frames]) == wanted.tolist()


def test_few_frames_are_kept_in_memory(tmp_path, cfg):
    path = write_numbered(tmp_path / "video", Recipe(count=300, options=x264(keyint=30)))
    for source in (FileSource(open_video(path)), UnknownLength(open_video(path))):
        cutter = ClipCutter(source, plan_keyframes(source, cfg, None, 0.4), cfg)
        most = 0
        for frame in source.frames():
            cutter.add(frame)
            most = max(most, len(cutter._frames))
        assert most <= 8 * 3 + 10


def corrupt(path, *packets):
    """Invert the bytes of some packets, by their number."""
    import av

    with av.open(str(path)) as file:
        places = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for place, size in (places[number] for number in packets):
        data[place + 4 : place + size] = bytes(b ^ 0xFF for b in data[place + 4 : place + size])
    path.write_bytes(data)
    return path


def test_damaged_frames_are_replaced_by_their_neighbors(tmp_path, cfg, caplog):
    video = write_numbered(tmp_path / "video", Recipe(count=90, options=x264(keyint=10, bframes=0)))
    source = FileSource(open_video(corrupt(video, 45)))  # frames 45 to 49 cannot be decoded
    plan = KeyframePlan(np.array([1.6]), np.array([40]), np.ones(90, dtype=bool))
    cutter = ClipCutter(source, plan, cfg)
    clips = [clip for frame in source.frames() for clip in cutter.add(frame)]
    (clip,) = clips
    shown = clip.video.permute(1, 2, 3, 0).numpy()[:, :, :96]
    assert numbers(shown) == [28, 31, 34, 37, 40, 43, 43, 43]  # 46 and 49 are missing
    with caplog.at_level(logging.WARNING):
        results, stream = streamed(source, cfg)
    assert len(results) == 9
    assert stream.damaged_frames == 4  # those of frames 45 to 49 that clips need
    assert "4 frames are damaged" in caplog.text


@pytest.mark.parametrize("given", [None, np.linspace(0, 0.1, 51)])
def test_far_more_keyframes_than_frames_are_refused(tmp_path, cfg, given):
    source = FileSource(open_video(write_numbered(tmp_path / "video", FILES["short"])))
    with pytest.raises(
        DataError, match=r"(1.*e\+0\d|51) keyframes are requested, but the video has only 5 frames"
    ):
        plan_keyframes(source, cfg, given, 1e-7)


def test_keyframes_after_the_last_good_frame_are_skipped(tmp_path, cfg, caplog):
    video = write_numbered(tmp_path / "video", Recipe(count=90, options=x264(keyint=10, bframes=0)))
    source = FileSource(open_video(corrupt(video, 30, 40, 50, 60, 70, 80)))
    with caplog.at_level(logging.WARNING):
        results, stream = streamed(source, cfg)
    # A clip starts 12 frames before its keyframe: that of frame 40 has frame 28, that of 50 has none.
    assert [result.time for result in results] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert stream.skipped_keyframes == 4
    assert "skipped 4 keyframes in a damaged part" in caplog.text


def test_source_that_fails_midway(tmp_path, cfg, caplog):
    class Broken(UnknownLength):
        def frames(self, first=0, wanted=None):
            for frame in super().frames():
                if frame.index == 40:
                    raise DataError("cannot be read: connection lost", "http://there/v.mp4")
                yield frame

    path = write_numbered(tmp_path / "video", FILES["even"])
    results, _ = streamed(Broken(open_video(path)), cfg)
    assert [result.time for result in results] == pytest.approx([0, 0.4, 0.8, 1.2])
    assert "connection lost; the rest of the video is skipped" in caplog.text
    with pytest.raises(DataError):
        FileSource(open_video(UNREADABLE["truncated"](tmp_path / "cut")))


def test_errors_in_a_thread_reach_the_caller_and_all_threads_end(tmp_path, cfg):
    class Failing(PersonSource):
        def __call__(self, time, frame):
            if time > 1:
                raise DataError("detector failed")
            return WholeFramePerson()(time, frame)

    before = threading.active_count()
    path = write_numbered(tmp_path / "video", FILES["even"])
    with pytest.raises(DataError, match="detector failed"):
        streamed(FileSource(open_video(path)), cfg, persons=Failing())
    source = FileSource(open_video(path))
    stream = ActionStream(
        source, plan_keyframes(source, cfg, None, 0.1), WholeFramePerson(), means, cfg, StreamOptions()
    )
    with stream:
        next(stream)  # closes the stream early
    assert threading.active_count() == before


def test_batched_detection_with_empty_keyframes(tmp_path, cfg):
    class Detector:
        def detect(self, frames):
            return [
                (np.tile(np.float32([[8, 8, 40, 60]]), (numbers([f])[0] // 10 % 3, 1)), np.full(9, 0.9)[:2])
                for f in frames
            ]

    class Fitting(Detector):
        def detect(self, frames):
            return [(boxes, scores[: len(boxes)]) for boxes, scores in super().detect(frames)]

    path = write_numbered(tmp_path / "video", FILES["even"])
    results, _ = streamed(FileSource(open_video(path)), cfg, persons=DetectedPersons(Fitting()))
    assert [len(result) for result in results] == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(results[1].boxes, [[8 / 96, 8 / 64, 40 / 96, 60 / 64]])
    assert results[2].tracks.tolist() == [1, 2]
    assert results[0].scores.shape[0] == 0


def keyframe(time, boxes, tracks):
    count = len(boxes)
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    return KeyframeActions(time, time, boxes, np.ones(count), np.zeros((count, 1)), np.array(tracks))


def test_boxes_between_keyframes_are_interpolated_along_tracks():
    rng = np.random.default_rng(0)
    times = np.repeat(np.arange(1.0, 7), 2)
    start = np.array([[0, 0, 0.3, 0.5], [0.5, 0, 0.9, 0.5]])
    boxes = np.concatenate([start + rng.uniform(0, 0.05) for _ in range(6)])
    kept = np.ones(12, dtype=bool)
    kept[[8, 10]] = False  # the first person leaves after second 4
    times, boxes = times[kept], boxes[kept]
    tracks = link(times, boxes)
    people = BoxInterpolator(spacing=1.0)
    for time in np.unique(times):
        rows = times == time
        people.add(keyframe(time, boxes[rows], tracks[rows]))
    for time in np.arange(0, 8, 0.07):
        expected = {}
        for track in (1, 2):
            visible = tracks == track
            if times[visible][0] - 0.5 <= time <= times[visible][-1] + 0.5:
                expected[track] = [np.interp(time, times[visible], side) for side in boxes[visible].T]
        found = {track: person.box for track, person in people.at(time)}
        assert found.keys() == expected.keys(), time
        for track, box in found.items():
            np.testing.assert_allclose(box, expected[track], atol=1e-12)


def test_boxes_are_not_interpolated_over_long_gaps():
    people = BoxInterpolator(spacing=5.0)
    for time in (0.0, 5.0):
        people.add(keyframe(time, [[0.1 * time, 0, 0.5 + 0.1 * time, 1]], [1]))
    assert len(people.at(0.9)) == 1
    assert people.at(2.5) == []
    assert people.at(4.5)[0][1].box[0] == 0.5


def test_regular_times_end_with_the_video():
    assert list(RegularTimes(0, 0.1, 0.3)) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert len(RegularTimes(0, 1, 9.96)) == 10
    assert len(RegularTimes(5, 1, 4)) == 0


def test_scores_do_not_depend_on_the_batch_size(tmp_path, tiny_cfg, monkeypatch):
    from vmae_det.checkpoint import save_weights
    from vmae_det.inference.predictor import ActionPredictor, read_config
    from vmae_det.modeling import build_model

    cfg = tiny_cfg("detect")
    ids = tuple(range(1, cfg.MODEL.ROI_HEAD.NUM_CLASSES + 1))
    label_map = {"ids": ids, "names": tuple(map(str, ids)), "kinds": ("",) * len(ids)}
    torch.manual_seed(0)
    weights = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)
    path = write_numbered(tmp_path / "video", FILES["even"])
    results = []
    for size in (1, 4):
        predictor = ActionPredictor(read_config(weights))
        predictor.cfg.TEST.BATCH_SIZE = size
        results.append(predictor(path, WholeFramePerson(), every=0.5).scores)
    assert len(results[0]) == 8
    np.testing.assert_allclose(*results, rtol=1e-4)
    few = ActionPredictor(read_config(weights), actions=["3", "1"])(path, WholeFramePerson(), every=0.5)
    assert few.label_map.ids == (1, 3)
    np.testing.assert_allclose(few.scores, results[0][:, [0, 2]], rtol=1e-4)
