"""The store on a Valkey or Redis server: connection, encoding, Lua scripts."""
