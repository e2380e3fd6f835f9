"""The commands of an operator: looking into the queues of a server, and putting things right.

Written against the contract: whatever `connect` connects to will do, if it outlives a command.
"""
