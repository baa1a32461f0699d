"""Planning: a model of what a robot does next, and the policy that follows its plans."""
