"""Train and measure continuous and discrete U-Nets side by side on your data, and write a report.

cunet compare --data digits --output runs/compare --budget images=4000 --num-seeds 1 --image-size 16
cunet compare --data PATH --output DIR --sides ours discrete my-side.yaml

The same command continues a comparison that was stopped. The report is DIR/report.html.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.comparison.config import CompareConfig

COMPARE = Verb(
    CompareConfig,
    "continuous_unet.comparison.run:compare",
    "train and measure continuous and discrete U-Nets side by side",
    __doc__,
)
