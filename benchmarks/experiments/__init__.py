"""Experiments on what is learned: how good pictures are after so many images, by recipe. Not part of the tests."""
