"""The edge: what turns calls on the port into calls of a plane, and a plane's answers into bytes."""
