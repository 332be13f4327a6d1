"""Tests of the package; the folders mirror those of the package."""
