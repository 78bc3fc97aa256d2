"""report.html, samples.webp and losses.png."""
