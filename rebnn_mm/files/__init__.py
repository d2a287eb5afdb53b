"""Bytes on the disk: whole files, the oscillation record, images in folders and shards, eight booleans a byte.

Nothing here needs more than torch and numpy.
"""
