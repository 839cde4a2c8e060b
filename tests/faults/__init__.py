"""Servers die, wires break, storage goes away, clients lie; what was promised must hold.

plan        what writers send, from a seed
writers     clients that come back after every break and check every answer; collect_writer: by single calls,
            sdk_writer: through the SDK
proxy       a wire that is cut by bytes and by direction
driver      one run: a data folder, one server after another, each ended in its own way
stored      reads the data folder afterwards; model: what must be in it, in plain Python; check: holds them together
altered     servers with a protection taken out, which the tests must notice
hostile     requests that no honest client sends
shop        the same for products, searches, recommendations and feedback
redis_on_port, call_record
            a Redis to be killed and made to hang; what became of every call meanwhile
soak        clients that search while products change, and check each answer against what was acknowledged
"""
