"""ClickHouse: one engine interface, the schema, and the commit log."""
