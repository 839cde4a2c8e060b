"""Experiments: in which variant events and sessions are, by what their visitor was exposed to first.

An exposure is an event of the type `exposure` that names an experiment and a variant in its properties. The first of a
visitor decides, by its time and where several are of that time by the least variant, so that exposures that come late,
twice or contradict each other end in the same results in whatever order they come. What was before it is in no variant:
it cannot be the variant's doing.

Visitors are looked for among all events up to the end of what is asked for, not only in its range: who was exposed in
March is in a variant in April.
"""

from collections.abc import Sequence
from string import Template

from penstock.kpis.fields import Bindings, Field, Kind, Source
from penstock.storage.version import Version

EXPOSURE = "exposure"
# When an event or a session was, which has to be at or after the exposure.
_TIME = {Source.EVENTS: "event_time", Source.SESSIONS: "start_time"}

# One look at the exposures for all experiments of a statement. A first that there is not is the epoch and no variant,
# which is also what a row without a match gets from the join.
_JOINED = Template(""" AS counted
ANY LEFT JOIN
(
    SELECT
        visitor AS exposed,
        $firsts
    FROM silver_events
    WHERE tenant = {tenant:String}
        AND $visible
        AND event_type = $exposure
        AND event_time < fromUnixTimestamp64Micro($end)
        AND visitor != ''
        AND properties['experiment'] IN $experiments
        AND properties['variant'] != ''
    GROUP BY exposed
) AS exposures ON visitor = exposed""")
_FIRST = Template("minIf((event_time, properties['variant']), properties['experiment'] = $experiment) AS first$n")


def joined(experiments: Sequence[str], version: Version, end: int, bind: Bindings) -> str:
    """SQL that joins the first exposures before `end`, in microseconds since the epoch, to rows that have a visitor.

    Empty without experiments. The statement binds `{tenant:String}`.
    """
    if not experiments:
        return ""
    firsts = [_FIRST.substitute(experiment=bind.text(name), n=n) for n, name in enumerate(experiments)]
    return _JOINED.substitute(
        firsts=",\n        ".join(firsts),
        visible=version.visible("silver_events"),
        exposure=bind.text(EXPOSURE),
        end=bind.add(end, "Int64"),
        experiments=bind.add([*experiments], "Array(String)"),
    )


def variant(source: Source, name: str, n: int) -> Field:
    """The field of the dimension `name`, which is the variant in the experiment that was joined as the `n`th."""
    sql = f"if({_TIME[source]} >= tupleElement(first{n}, 1), tupleElement(first{n}, 2), '')"
    return Field(source, name, Kind.TEXT, sql)
