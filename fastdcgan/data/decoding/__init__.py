"""Decoding: from the bytes of picture files to pixels."""
