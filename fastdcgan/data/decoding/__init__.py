"""From a picture file's bytes to pixels."""
