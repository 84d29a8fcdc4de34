"""Same as `vmae-det train`: python tools/train_net.py ..."""

import sys

from vmae_det.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
