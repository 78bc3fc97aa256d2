"""How fast it could be: this machine's ceilings, and predictions for GPUs and for many of them."""
