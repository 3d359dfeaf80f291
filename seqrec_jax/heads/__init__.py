"""Task heads: what else a user's state can say than a score v_xᵀ W v_y."""
