"""How long things are measured."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scale:
    """Times of one benchmark, such that all of it stays below a minute."""

    seconds: float  # of one measurement
    rounds: int  # in which what is compared takes turns
    warm_up_s: float
    steady_s: float  # of a load at a fixed rate
    share: float = 1.0  # of what is counted, not timed
    events: int = 5_000_000  # that reads go over
    products: int = 100_000  # that are searched


FULL = Scale(seconds=3.0, rounds=3, warm_up_s=1.5, steady_s=25.0)
QUICK = Scale(seconds=0.5, rounds=1, warm_up_s=0.2, steady_s=3.0, events=100_000, products=5_000)
FLOOD = replace(FULL, steady_s=60.0)
LONG = Scale(seconds=60.0, rounds=1, warm_up_s=0.0, steady_s=60.0)
QUICK_LONG = Scale(seconds=5.0, rounds=1, warm_up_s=0.0, steady_s=5.0, share=0.05)
