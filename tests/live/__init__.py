"""The lifecycle on a whole stack."""
