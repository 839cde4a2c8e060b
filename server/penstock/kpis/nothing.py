"""Why there is nothing to show."""

from penstock.storage.engine import Engine
from penstock.storage.version import Version

# Each finds its first row by the key. Of gold also what a cleanup removed counts: it had been processed.
_THERE = """
SELECT 'processed' AS what FROM gold_events WHERE tenant = {tenant:String} AND run <= {run:Int64} LIMIT 1
UNION ALL
SELECT 'stored' AS what FROM bronze_events WHERE tenant = {tenant:String} AND commit <= {head:Int64} LIMIT 1
"""


async def why_nothing(engine: Engine, tenant: str, version: Version, otherwise: str) -> str:
    """Why gold has nothing of a tenant; `otherwise` is what to say where it has events."""
    found = await engine.rows(_THERE, {"tenant": tenant, "run": version.gold.run, "head": version.commit})
    there = {row["what"] for row in found}
    if "processed" in there:
        return otherwise
    return "the first events are not processed yet" if "stored" in there else "no events yet"
