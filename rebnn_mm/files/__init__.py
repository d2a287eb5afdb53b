"""Bytes on the disk: the one writer of whole files, the oscillation record, and eight booleans a byte.

Nothing here needs more than torch and numpy.
"""
