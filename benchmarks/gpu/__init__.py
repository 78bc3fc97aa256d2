"""The proof on a GPU, in one command: `python -m benchmarks.gpu` (`__main__.py` says what it does)."""
