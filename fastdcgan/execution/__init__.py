"""How a step is executed: a plan, and what carries it out."""
