"""Pictures in tar files, read where they lie."""
