"""Same as `vmae-det test`: python tools/test_net.py ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
