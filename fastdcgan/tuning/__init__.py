"""Measured plans: parity with the reference, paired timing, and the choice of the fastest for a run."""
