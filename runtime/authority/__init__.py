"""A small certificate authority: who may have a certificate, what was signed, and what is revoked."""
