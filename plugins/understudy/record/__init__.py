"""The record's own arithmetic: the chain of entries, what is exported of it, certificates, and what it says of a moment.

Nothing here needs a database or a network, so that whoever was handed a file can check it alone.
"""
