"""fastdcgan from Python: what `import fastdcgan` offers, each imported when it is first used."""
