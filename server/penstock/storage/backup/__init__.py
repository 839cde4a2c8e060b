"""Backups: of a data folder in one file, and of a database behind a URL by ClickHouse's own statements."""
