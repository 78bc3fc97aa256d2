"""A whole run, composed of all other packages: validate, open, build, fit."""
