"""Measurements beside a peer in the same run; nothing here runs on import."""
