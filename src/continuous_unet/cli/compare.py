"""Train and measure continuous and discrete U-Nets side by side.

All sides are trained on your data under one protocol, and the results are written as a report.

cunet compare --data digits --output runs/compare --budget images=4000 --num-seeds 1 --image-size 16
cunet compare --data PATH --output DIR --sides ours discrete my-side.yaml

The same command continues a comparison that was stopped. The report is DIR/report.html.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.comparison.config import CompareConfig

COMPARE = Verb(CompareConfig, "continuous_unet.comparison.run:compare", __doc__)
