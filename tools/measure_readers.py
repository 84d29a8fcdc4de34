"""Replaced by `vmae-det benchmark readers`, to which this script forwards its arguments."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "readers", *sys.argv[1:]]))
