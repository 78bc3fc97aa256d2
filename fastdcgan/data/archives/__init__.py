"""Pictures in tar files, read without unpacking."""
