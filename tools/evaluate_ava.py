"""`vmae-det evaluate`, for those who work in a clone: python tools/evaluate_ava.py ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
