"""Make plans with a trained planner, for what a robot observes.

cunet train --task plan --data trajectories.npz --output runs/robot
cunet plan runs/robot observation.npz --num 4 --output plan.npz

In a control loop, use the policy in Python, or export the planner and use policy.py; see docs/planning.md.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.plan.options import PlanOptions

PLAN = Verb(PlanOptions, "continuous_unet.tasks.plan.run:make_plans", __doc__)
