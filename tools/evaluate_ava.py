"""Same as `vmae-det evaluate`: python tools/evaluate_ava.py ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
