"""Devices, and the resources that live on them."""
