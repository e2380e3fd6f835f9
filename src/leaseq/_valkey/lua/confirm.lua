-- Returns 1 if this server has done a call: ARGV is the key of the calls, the process, and the
-- call's number. No key is declared, so that no node of a cluster passes this on to another one.
--
-- WAIT waits for what its connection has written. What did the call may have come by another one,
-- so what the server remembers of it is written anew. One that is full takes no write that may
-- need memory, before a script has written something; so another write comes first.

local record = redis.call("HGET", ARGV[1], ARGV[2])
if not record then
  return 0
end
local sound, _, last = pcall(cmsgpack.unpack_limit, record, 1)
if not sound or type(last) ~= "number" or last < tonumber(ARGV[3]) then
  return 0
end
redis.call("HDEL", ARGV[1], "")
redis.call("HSET", ARGV[1], ARGV[2], record)
return 1
