"""Pictures in tables of other libraries: LMDB, HDF5, parquet, Hugging Face's data sets."""
