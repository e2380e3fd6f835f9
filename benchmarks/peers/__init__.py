"""leaseq on a Valkey server beside other queues that use one, each in an environment of its own."""
