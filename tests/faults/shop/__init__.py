"""Servers with products die; what was acknowledged is listed, found and remembered, and nothing else changed.

writers     who stores and removes products and sends feedback, and knows what must have become of it
clicker, patrons
            who notices at once that an answer is wrong: a user, a keeper, a tracker, a reader
tender      who has the index rebuilt and models trained meanwhile
spoil       what may have become of the saved index while no server was looking
check       holds a running server against what the writers know
driver      one run: a data folder, one server after another, each ended in its own way
altered     servers with a protection taken out, which the tests must notice
"""
