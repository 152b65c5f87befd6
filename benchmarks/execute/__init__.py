"""Jobs done: in this process, in workers of their own, or on a cluster."""
