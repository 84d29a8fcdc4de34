"""Replaced by `vmae-det benchmark tracking`, to which this script forwards its arguments."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "tracking", *sys.argv[1:]]))
