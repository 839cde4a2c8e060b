"""SIGTERM and Ctrl-C as an event that a coroutine can wait for."""

import asyncio
import signal

STOPPING = (signal.SIGTERM, signal.SIGINT)


def stop_event() -> asyncio.Event:
    """Is set by the first SIGTERM or SIGINT; the next one does what it does by default, which is to end the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        stop.set()
        for number in STOPPING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in STOPPING:
        loop.add_signal_handler(number, stopping)
    return stop
