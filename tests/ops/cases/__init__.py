"""The tables: one module for each family of ops."""
