"""Clones on Amazon EC2, started from images of EBS snapshots. Light to import: boto3 comes with the first call."""
