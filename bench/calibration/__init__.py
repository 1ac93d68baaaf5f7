"""``make calibrate``: how often the product's own decisions are wrong in worlds where the truth is known.

Not a measurement of speed, so ``make bench`` leaves it out. The committed result is docs/calibration.md.
"""
