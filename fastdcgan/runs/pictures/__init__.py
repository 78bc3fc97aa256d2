"""Pictures in any number from a generator: which latents, in batches, and the files they are written to."""
