"""The engine on a Valkey or Redis server."""
