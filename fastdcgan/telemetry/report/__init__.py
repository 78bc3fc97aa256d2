"""report.html and losses.png."""
