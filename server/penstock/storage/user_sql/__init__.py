"""Runs SQL that users wrote: on handles of its own, read-only, within limits, and so that it can be stopped."""
