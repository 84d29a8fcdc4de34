"""A server of `vmae-det serve` in a thread, with a tiny random model, and a client for it."""

import http.client
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from running import running

from vmae_det.checkpoint import save_weights
from vmae_det.config import get_cfg
from vmae_det.inference.predictor import read_config
from vmae_det.modeling import build_model
from vmae_det.web.serve.app import ServeSettings, VideoService, build_app
from vmae_det.web.serve.model import ServedModel

LABELS = {"ids": [1, 2, 4], "names": ["walk", "sit", "talk <b>"], "kinds": ["", "", ""]}
_SMALL = ("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2)
_SMALL += ("INPUT.CROP_SIZE", 32, "INPUT.TEST_SHORT_SIDE", 32, "INPUT.NUM_FRAMES", 4, "MODEL.DEVICE", "cpu")
_KINDS = {
    "one_stage": (
        *("MODEL.META_ARCHITECTURE", "ActionDetector", "MODEL.ROI_HEAD.NUM_CLASSES", 3),
        *("MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8),
        *("MODEL.PERSON_HEAD.NUM_CONVS", 1, "MODEL.PERSON_HEAD.SCORE_THRESHOLD", 0.0),
    ),
    "two_stage": ("MODEL.META_ARCHITECTURE", "ActionDetector", "MODEL.ROI_HEAD.NUM_CLASSES", 3),
    "classifier": (
        *("MODEL.META_ARCHITECTURE", "VideoClassifier", "MODEL.CLASSIFIER.NUM_CLASSES", 3),
        *("TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1),
    ),
}


def write_weights(path, kind="one_stage", *opts):
    """Save a tiny random model: one_stage, two_stage or classifier."""
    cfg = get_cfg()
    cfg.merge_from_list([*_SMALL, *_KINDS[kind], *opts])
    torch.manual_seed(0)
    save_weights(build_model(cfg).state_dict(), cfg.dump(), path, LABELS)
    return path


def load_model(path, **options):
    return ServedModel(read_config(path), **options)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Requests to a server."""

    def __init__(self, server, service):
        self.server, self.service, self.port = server, service, server.port

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(
                response.status,
                response.read(),
                {name.lower(): value for name, value in response.getheaders()},
            )
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, **headers)

    def post_json(self, path, content):
        return self.request("POST", path, json.dumps(content), Content_Type="application/json")

    def wait(self, job, states=("done", "failed", "cancelled"), seconds=240):
        """Wait until a job is in one of these states; return it."""
        end = time.monotonic() + seconds
        while (found := self.get(f"/api/jobs/{job}").json)["state"] not in states:
            assert time.monotonic() < end, found
            time.sleep(0.02)
        return found

    def idle(self, seconds=240):
        """Wait until nothing is received, queued or run."""
        end = time.monotonic() + seconds
        while any(job["state"] in ("receiving", "queued", "running") for job in self.jobs()):
            assert time.monotonic() < end, self.jobs()
            time.sleep(0.02)

    def jobs(self):
        return self.get("/api/jobs").json["jobs"]


@contextmanager
def serving(model, output, **settings):
    """Run a server on a free port; yield its client."""
    service = VideoService(model, ServeSettings(output, **settings))
    app, limits = build_app(service), service.settings.body_limits
    with running(app, seconds=20, body_limits=limits) as server:
        yield Client(server, service)
