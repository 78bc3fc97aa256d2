"""The built-in data set: cartoon faces drawn by the package."""
