"""Shard sets: records as they lie on disk, how they get there, and how they are read at speed."""
