"""What a step cost: timelines for trace viewers, tables of the nodes that took longest, steps recorded on request."""
