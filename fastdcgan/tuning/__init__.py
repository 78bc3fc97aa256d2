"""The measured choice of a plan: parity with the reference, timing in turns."""
