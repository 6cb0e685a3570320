"""Shards in, batches out: everything about data before it reaches a network.

The files beside this one are what all rooms speak: records, names of classes, findings, atomic
writes, locks.
"""
