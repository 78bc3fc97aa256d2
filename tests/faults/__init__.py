"""Faults injected on purpose into whole runs, and how often each left anything behind that it should not.

A set of minutes; FASTDCGAN_FAULTS=long for the long one. Every test adds a line of figures to the table at the end.
A package, so that its conftest is not taken for that of all tests.
"""
