"""Messages of this project's own services, package ``runtime.v1`` on the wire; none so far."""
