"""Whatever a client sends: a status that says it was the client's fault and which field, and a server that lives."""
