"""SQL over the tenant's views, behind a gate."""
