"""Before the last step: a request to stop, or a fault of one process, on which all of them agree."""
