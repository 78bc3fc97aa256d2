"""Several processes: joining them through Accelerate, collectives, and what they must agree on."""
