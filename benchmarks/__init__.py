"""Measurements that are made side by side with what they are compared to."""
