"""The embedded data set: cartoon faces drawn by the package."""
