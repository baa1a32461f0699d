"""Episodes and small planners for the tests of planning."""

import numpy as np
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from continuous_unet import ContinuousUNet1DModel, PlanningPipeline
from continuous_unet.data.trajectories.episodes import Episodes
from continuous_unet.data.trajectories.scaling import Scaling
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.plan.facts import PlanFacts

HORIZON = 8


def episodes(path, lengths=(20, 30, 25)):
    """Writes episodes with states of four numbers, and actions of two, the last of which is constant."""
    random = np.random.default_rng(0)
    actions = random.normal(size=(sum(lengths), 2))
    actions[:, 1] = 3
    states = random.normal(size=(sum(lengths), 4)) * [1, 10, 1, 1]
    Episodes("episodes", {"states": states, "actions": actions}, np.cumsum(lengths)).save(path)
    return str(path)


def planner(learned="actions", process="flow", seed=0):
    """A planner with random weights, none of which are zero."""
    torch.manual_seed(seed)
    own = Scaling((-1.0, -2.0), (1.0, 6.0))
    seen = Scaling((-1.0, 0.0, 5.0, -1.0), (1.0, 10.0, 5.0, 1.0))
    if learned == "actions":
        plan = PlanFacts(learned, HORIZON, own, history=2, observed=seen)
    else:
        plan = PlanFacts(learned, HORIZON, seen + own, num_states=4)
    unet = ContinuousUNet1DModel(
        sample_size=HORIZON,
        in_channels=len(plan.scaling),
        out_channels=len(plan.scaling),
        block_out_channels=(8, 8),
        norm_num_groups=4,
        global_cond_dim=plan.num_observed or None,
    ).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    scheduler = (
        FlowMatchEulerDiscreteScheduler() if process == "flow" else DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    )
    return PlanningPipeline(unet, scheduler, Facts(plan=plan))
