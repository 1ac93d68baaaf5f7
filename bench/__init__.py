"""Measurements. Absolute figures drift from machine to machine: quote ratios from one run."""
