"""A session: dlv on a private address, the relay that leads clients to it, and the keeper that outlives us."""
