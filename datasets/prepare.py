"""Run `vmae-det prepare` from a clone: python datasets/prepare.py NAME ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
