"""Numbers in, numbers out: pure statistics on numpy and ``scipy.special`` only."""
