"""The same for what finds and recommends products: catalogue, search, recommendations, feedback."""
