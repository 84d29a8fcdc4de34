"""Templates of the fuzzed commands, and the bad values of their arguments.

A word of a template that begins with "@" is a slot, KIND:VALUE, with a valid value:

    @file:NAME     an input file              @dir:NAME     an input folder
    @out:NAME      a file to write            @outdir:NAME  a folder to write
    @num:N         a number                   @word:TEXT    a name or choice
    @keys:         overrides of config keys, none in the valid command
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vmae_det.config import get_cfg
from vmae_det.config.cfg_node import flatten

TINY = (
    "MODEL.DEVICE cpu MODEL.BACKBONE.EMBED_DIM 24 MODEL.BACKBONE.DEPTH 2 MODEL.BACKBONE.NUM_HEADS 2 "
    "MODEL.BACKBONE.PATCH_SIZE 16 MODEL.BACKBONE.TUBELET_SIZE 2 MODEL.DECODER.EMBED_DIM 16 "
    "MODEL.DECODER.DEPTH 1 MODEL.DECODER.NUM_HEADS 2 INPUT.NUM_FRAMES 4 INPUT.CROP_SIZE 64 "
    "INPUT.TRAIN_SHORT_SIDE 64 INPUT.TEST_SHORT_SIDE 64 DATALOADER.NUM_WORKERS 0 SOLVER.BATCH_SIZE 4 "
    "SOLVER.EPOCHS 1 SOLVER.WARMUP_EPOCHS 0.0 OUTPUT_DIR run "
)
PEOPLE = "PERSON_DETECTOR.NAME onnx PERSON_DETECTOR.WEIGHTS @file:people.onnx PERSON_DETECTOR.SCORE 0.5 "

COMMANDS = (
    "train --config-file @file:detect.yaml @keys:",
    "train --config-file MiniAVA/pretrain.yaml --num-gpus @num:1 --timeout @num:100 "
    + TINY
    + "DATASETS.TRAIN @file:mini_ava/unlabelled.yaml @keys:",
    "train --config-file MiniAVA/finetune.yaml --max-restarts @num:0 "
    + TINY
    + "DATASETS.TRAIN @file:mini_ava/clips_train.yaml DATASETS.TEST @file:mini_ava/clips_val.yaml "
    "MODEL.BACKBONE.CHECKPOINT @file:pretrain.pt @keys:",
    "train --data @file:mini_ava/train.yaml --val @file:mini_ava/val.yaml --model @word:tiny --dry-run "
    "@keys:",
    "train --data @dir:mini_ava/unlabelled --weights @file:pretrain.pt --dry-run OUTPUT_DIR @outdir:run",
    "train --eval-only --config-file @file:detect.yaml MODEL.WEIGHTS @file:detect.pt",
    "submit --time @num:10 --nodes @num:1 --num-gpus @num:1 --config-file MiniAVA/pretrain.yaml @keys:",
    "test --config-file @file:detect.yaml MODEL.WEIGHTS @file:detect.pt @keys:",
    "test --config-file @file:detect.yaml MODEL.WEIGHTS @file:detect.safetensors "
    "DATASETS.TEST @file:mini_ava/val.yaml",
    "classify @file:v.mp4 --weights @file:finetune.pt --output @outdir:out --label-map @file:labels.pbtxt "
    "--top-k @num:2 --format @word:csv,table --num-gpus @num:1 @keys:",
    "classify @file:v.mp4 --weights @file:finetune.safetensors --output @outdir:out --every @num:1 "
    "--smooth @num:1 --start @num:0 --end @num:2 --threshold @num:0.1 --format csv,jsonl,html",
    "classify @word:rtsp://127.0.0.1:9/x --weights @file:finetune.pt --every @num:1",
    "features @file:v.mp4 --weights @file:finetune.pt --output @outdir:out --frames @num:4 --stride @num:16 "
    "--sampling-rate @num:1 --kind @word:mean --view @word:crop --format @word:npz --batch-size @num:2 "
    "--num-gpus @num:1 @keys:",
    "features @file:v.mp4 --weights @file:detect.safetensors --output @outdir:out --boxes @file:boxes.csv "
    "--video-start @num:900 --half",
    "features @file:v.mp4 --weights @file:detect.pt --output @outdir:out --persons --every @num:1 "
    "--format @word:parquet " + PEOPLE,
    "detect @file:v.mp4 --weights @file:detect.pt --output @outdir:out --boxes @file:boxes.csv "
    "--label-map @file:labels.pbtxt --start @num:0 --end @num:1 --format csv,jsonl",
    "detect @file:v.mp4 --weights @file:detect.pt --output @outdir:out --whole-frame --every @num:1 "
    "--smooth @num:1 --video-start @num:0 --end 1 --top-k @num:3 --threshold @num:0.3 --format @word:csv "
    "--actions @word:wave --num-gpus @num:1",
    "detect @file:v.mp4 --weights @file:detect.pt --output @outdir:out --whole-frame --explain --smooth 0 "
    "--threshold @num:0.3 --format overlay",
    "detect @word:rtsp://127.0.0.1:9/x --weights @file:detect.pt --output @outdir:out --whole-frame",
    "detect-persons @file:v.mp4 --output @out:persons.csv --every @num:1 --video-start @num:0 "
    "--num-gpus @num:1 " + PEOPLE + "@keys:",
    "detect-persons --dataset @file:mini_ava/val.yaml --output @out:persons.csv " + PEOPLE,
    "visualize reconstruction --weights @file:pretrain.pt --video @file:v.mp4 --clips @num:1 "
    "--ratio @num:0.9 --output @outdir:out",
    "visualize attention --weights @file:detect.pt --video @file:v.mp4 --at @num:1 --box @num:0.1 @num:0.1 "
    "@num:0.5 @num:0.5 --method @word:last --output @outdir:out",
    "visualize batch --step @num:0 --clips @num:1 --output @outdir:out "
    "--config-file @file:detect.yaml @keys:",
    "visualize curves @file:metrics.jsonl --smooth @num:1 --metric @word:loss --name @word:a "
    "--output @out:c.svg",
    "visualize embedding --weights @file:finetune.pt --dataset @file:mini_ava/clips_val.yaml "
    "--classes @num:3 --limit @num:4 --method pca --output @outdir:out",
    "visualize page --video @file:v.mp4 --detections @file:det.csv --label-map @file:labels.pbtxt "
    "--video-start @num:0 --threshold @num:0.3 --output @out:p.html",
    "inspect --config-file @file:detect.yaml --output @outdir:out @keys:",
    "inspect --config-file @word:AVA/vit_small_16x4.yaml @keys:",
    "print-config --config-file @file:detect.yaml --diff --key @word:SOLVER --json @out:r.json @keys:",
    "print-config MODEL.WEIGHTS @file:detect.pt",
    "export --weights @file:detect.pt --format @word:torch --output @out:m.pt2 "
    "--label-map @file:labels.pbtxt",
    "convert @file:pretrain.pt @out:m.pth --to @word:videomae",
    "convert @file:detect.pt @out:m.safetensors --to mmaction2",
    "import @file:coco.json --format @word:coco --output @outdir:out --rate @num:5 --every @num:1 "
    "--video-start @num:0 --first-frame @num:0",
    "import @file:cvat.xml --output @outdir:out --rate @num:5 "
    "--label-map @file:labels.pbtxt --ignore @word:x",
    "import @file:via3.json --output @outdir:out --rate @num:5 --videos @dir:mini_ava/videos",
    "import @file:labelstudio.json --output @outdir:out --rate @num:5",
    "resize @dir:empty --output @outdir:out --short-side @num:48 --gop @num:1 --workers @num:1 "
    "--max-bad @num:0.5",
    "shard @file:mini_ava/train.yaml --output @outdir:out --size @word:1MB",
    "check-data @file:mini_ava/val.yaml --against @file:mini_ava/train.yaml --json @out:r.json "
    "--sheets @outdir:sheets --workers @num:1 --decode @word:none",
    "check-data @file:mini_ava/clips_val.yaml --workers 1 --decode none",
    "check-data @dir:mini_ava/unlabelled --workers 1 --decode none",
    "evaluate --ground-truth @file:gt.csv --detections @file:det.csv --label-map @file:labels.pbtxt "
    "--protocol @word:slowfast --iou @num:0.5 --json @out:r.json --excluded @file:excluded.csv",
    "evaluate --ground-truth @file:gt.csv --detections @file:det.csv --label-map @word:ava_v2.2 "
    "--report @outdir:report --compare @file:det.csv",
    "evaluate --ground-truth @file:gt.csv --person-boxes @file:boxes.csv --json @out:r.json",
    "evaluate --ground-truth @file:tubes.csv --tubes @file:tubes.csv --json @out:r.json",
    "evaluate --ground-truth @file:clips.csv --classes @file:v_classes.csv --label-map @file:labels.pbtxt "
    "--json @out:r.json --report @outdir:report",
    "review @dir:empty --dataset @file:mini_ava/val.yaml --detections @file:det.csv --count @num:1 "
    "--workers @num:1 --annotate-url @word:http://127.0.0.1:8000/ --output @outdir:out",
    "benchmark frame-map --rows @num:1000 --repeats @num:1 --json @out:r.json",
    "benchmark gpu-scaling --total-gpus @num:8 --matrix-rate @num:400 --gpus @num:8 --batch @num:64 "
    "--json @out:r.json",
    "doctor --quick --device @word:cpu --time-limit @num:1 --folder @outdir:out --json @out:r.json",
    "quickstart --output @outdir:/dev/null/x --seed @num:0 --num-gpus @num:1",
    *(
        f"prepare {name} --annotations @dir:empty --videos @dir:mini_ava/videos --root @outdir:root "
        "--max-bad @num:0.5 --workers @num:1"
        for name in ("kinetics400", "something_something_v2", "ucf101", "hmdb51", "ava", "ava_kinetics")
    ),
    *(
        f"prepare {name} --annotations @file:annotations.pkl --videos @dir:mini_ava/videos "
        "--root @outdir:root --person-boxes @file:boxes.csv"
        for name in ("ucf101_24", "jhmdb", "multisports")
    ),
)

NUMBERS = (
    *("nan", "inf", "-inf", "-1", "0", "1e-320", "1e308", "1e999", "", " ", "x", "1,5", "0x10", "1j"),
    *("9" * 30, "9" * 5000, "-" + "9" * 30, "１", "None", "[]", "1e-7", "2147483648", "99999999999"),
)
WORDS = (
    "",
    " ",
    "x",
    "n" * 5000,
    "..",
    "/",
    "https://[bad",
    "é\udcff",
    "{",
    "*",
    "'",
    "-",
    "None",
    "0" * 30,
    "a b",
)
OUTPUT_FILES = (
    "",
    ".",
    "..",
    "/",
    "folder",
    "file/x",
    "n" * 300,
    "new/" + "n" * 300,
    "lost/x",
    "loop",
    "n/" * 3000,
)
OUTPUT_FOLDERS = ("", "file", "file/x", "n" * 300, "lost", "pipe", "loop", "n/" * 3000)
VALUES = (
    *("nan", "inf", "-inf", "-1", "0", "1e-320", "1e308", "1e999", "2147483648", "100000000000"),
    *("9" * 30, "9" * 5000, "", " ", "x", "é\udcff", "n" * 5000, "None", "True", "1j", "b'x'", "'\\0'"),
    *("()", "(1,)", "('a',)", "(0,0,0)", "(-1.0,2.0)", "(nan,1.0)", "(1e400,1.0)", "(" + "1," * 5000 + ")"),
    *("[" * 2000, "{}", "{'a': 1}", "[[]]"),
)

KEYS = ("TRAIN.BATCH_SIZE", "SOLVER", "solver.epochs", "", "SOLVER.EPOCHS.X", "-x", "é\udcff", "a" * 5000)


@dataclass(frozen=True)
class Input:
    """A command with one bad argument. `words` are the arguments; `what` describes the change."""

    command: int
    what: str
    words: tuple[str, ...]


def every_input(site: Path, scratch: Path, seed: int) -> Iterator[Input]:
    """Yield each slot of each command with each bad value.

    Args:
        site: folder of the valid input files.
        scratch: folder for damaged files.
        seed: seed of the damage in files.
    """
    for number, command in enumerate(COMMANDS):
        words = command.split()
        for index, word in enumerate(words):
            if word.startswith("@"):
                kind, _, good = word[1:].partition(":")
                for what, bad in _bad_values(kind, good, site, scratch / str(number), seed):
                    arguments = [_good(other, site) for other in words]
                    arguments[index] = bad
                    flat = tuple(text for texts in arguments for text in texts)
                    yield Input(number, f"{word}: {what}", flat)


def is_slow(fuzz_input: Input) -> bool:
    """Return whether an input takes many seconds: downloads, a search of the disk, exports, benchmarks."""
    slow_commands = ("benchmark", "doctor", "export", "quickstart")
    searches_disk = fuzz_input.words[:2] == ("detect", "/")
    unreachable = fuzz_input.what.endswith("an unreachable URL")
    return searches_disk or unreachable or fuzz_input.words[0] in slow_commands


def good_input(command: int, site: Path) -> Input:
    """Return the valid command."""
    words = COMMANDS[command].split()
    return Input(command, "unchanged", tuple(text for word in words for text in _good(word, site)))


def _good(word: str, site: Path) -> list[str]:
    if not word.startswith("@"):
        return [word]
    kind, _, good = word[1:].partition(":")
    if kind == "keys":
        return []
    return [str(site / good) if kind in ("file", "dir") else good]


def _bad_values(
    kind: str, good: str, site: Path, scratch: Path, seed: int
) -> Iterator[tuple[str, list[str]]]:
    texts = {"num": NUMBERS, "word": WORDS, "out": OUTPUT_FILES, "outdir": OUTPUT_FOLDERS}
    if kind in texts:
        yield from ((repr(text[:40]), [text]) for text in texts[kind])
    elif kind == "keys":
        keys = [key for key, _ in flatten(get_cfg())]
        yield from ((f"{key} {value[:40]!r}", [key, value]) for key in keys for value in VALUES)
        for key in (
            "TRAIN.BATCH_SIZE",
            "SOLVER",
            "solver.epochs",
            "",
            "SOLVER.EPOCHS.X",
            "-x",
            "é\udcff",
            "a" * 5000,
        ):
            yield f"key {key[:40]!r}", [key, "1"]
        yield "a key without a value", ["SEED"]
    else:
        source = site / good
        yield "missing", [str(site / "missing" / good)]
        yield "a name that is too long", ["n" * 300]
        yield "an empty name", [""]
        yield "an invalid URL", ["https://[bad"]
        yield "an unreachable URL", [f"http://127.0.0.1:9/{Path(good).name}"]
        yield "a device", ["/dev/null"]
        yield "an endless device", ["/dev/zero"]
        yield "an empty folder", [str(site / "empty")]
        for other in OTHER_FILES:
            yield f"the file {other}", [str(site / other)]
        if source.is_file():
            for name, damage in DAMAGES.items():
                path = scratch / name.replace(" ", "_") / source.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(damage(source.read_bytes(), random.Random(f"{seed} {name} {good}")))
                yield name, [str(path)]


OTHER_FILES = (
    "v.mp4",
    "detect.pt",
    "gt.csv",
    "labels.pbtxt",
    "detect.yaml",
    "coco.json",
    "people.onnx",
    "pipe_text",
)


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(max(len(data) // 500, 3)):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _drop(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) or 1)
    return data[:start] + data[start + draw.randrange(1, 50) :]


def _digits(data: bytes, draw: random.Random) -> bytes:
    """Replace three digits by a number of 400 digits, NaN, another odd number, or a letter."""
    new = draw.choice([b"9" * 400, b"nan", b"-1", b"1e400", b"0", b"x"])
    positions = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    for position in sorted(draw.sample(positions, min(3, len(positions))), reverse=True):
        data = data[:position] + new + data[position + 1 :]
    return data


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda data, draw: b"",
    "half": lambda data, draw: data[: len(data) // 2],
    "almost all": lambda data, draw: data[:-7],
    "bytes changed": _flip,
    "more bytes changed": lambda data, draw: _flip(_flip(data, draw), draw),
    "bytes lost": _drop,
    "noise": lambda data, draw: draw.randbytes(3000),
    "zeros": lambda data, draw: bytes(3000),
    "odd numbers": _digits,
    "other odd numbers": lambda data, draw: _digits(_digits(data, draw), draw),
    "utf16": lambda data, draw: data.decode("latin-1").encode("utf-16"),
    "brackets": lambda data, draw: b"[" * 100_000,
    "braces": lambda data, draw: b'{"a":' * 100_000,
    "long line": lambda data, draw: b"a," * 500_000,
    "spaces": lambda data, draw: b" " * 200_000 + data[-20:],
    "lines twice": lambda data, draw: data + data,
    "no line breaks": lambda data, draw: data.replace(b"\n", b" "),
    "tabs": lambda data, draw: data.replace(b",", b"\t"),
    "gzip magic": lambda data, draw: b"\x1f\x8b" + data,
    "zip magic": lambda data, draw: b"PK\x03\x04" + data,
}
