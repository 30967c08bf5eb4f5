"""Cluster, applications and performance tables -> a plan: which engines, how wide, how many, which share a device."""
