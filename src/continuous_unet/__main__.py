"""`python -m continuous_unet` is `cunet`, so that `accelerate launch -m continuous_unet train …` works."""

import sys

from continuous_unet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
