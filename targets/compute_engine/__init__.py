"""Clones in a Compute Engine project, made from snapshots or images that lie there already."""
