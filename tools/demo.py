"""Same as `vmae-det detect`: python tools/demo.py ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
