-- Lost replies: the last numbered call of each process, from which its reply can be made again.
--
-- A process whose reply was lost sends the same call once more. Nothing is done then. The answers
-- of its operations are kept as they were. Of a claim only its leases are kept, and the items are
-- read again; those that their leases do not hold any more are left out.

local FORGOTTEN = 3600000000 -- a process that has not called for so long is
local KEPT_OK = 1 -- in place of the most frequent result
local SECOND = 1000000 -- the last time is kept anew after so long

local is_kept = true -- false: nothing is kept of any call of this script

-- Of the call
local number -- nil or false: not recorded
local kept -- the results to keep, by operation; nil: as it is
local operation

local function remember_claim(index, result)
  if not number then
    return
  end
  local claimed = { "claim", index, result[3], result[1] }
  for at = 4, #result do
    local leases = {}
    for _, lease in ipairs(result[at]) do
      leases[#leases + 1] = lease[1]
      leases[#leases + 1] = lease[3]
    end
    claimed[at + 1] = leases
  end
  kept[operation] = claimed
end

-- Write some fields of the calls, however full the server is: it takes what may need memory after a
-- first write only.
local function write_calls(...)
  if type(redis.pcall("HSET", KEYS[1], ...)) == "table" then
    call("HDEL", KEYS[1], "")
    call("HSET", KEYS[1], ...)
  end
end

-- What is kept of the broker, as it is written.
local function broker_now()
  broker[2] = wall
  return pack(unpack(broker, 2))
end

-- Keep this in place of the result of the operation.
local function remember_result(result)
  if number then
    kept[operation] = result
  end
end

local function remember_call(results)
  for at = 4, #results do
    local result = results[at]
    kept[at - 3] = kept[at - 3] or (result == OK and KEPT_OK or result)
  end
  local last = pack(number, steady) .. pack(events, kept)
  if wall < broker[2] or wall > broker[2] + SECOND then
    write_calls(process, last, "@", broker_now())
  else
    write_calls(process, last)
  end
end

local function claim_again(claimed)
  local q = queue_at(claimed[2])
  if not q then
    return GONE
  end
  local result = { claimed[4], total(q), claimed[3] }
  for at = 5, #claimed do
    local leases = {}
    for n = 1, #claimed[at], 2 do
      local key = claimed[at][n]
      local item = find_held(q, key, claimed[at][n + 1])
      if item then
        leases[#leases + 1] = lease_of(key, item)
      end
    end
    result[at - 1] = leases
  end
  return result
end

-- The events and the results of this very call, if it was done before; nil, and whether a later one
-- was. Raises if the record is not that of a call.
local function read_record()
  local at, last = cmsgpack.unpack_limit(record, 2)
  if last < number then
    return nil
  end
  local then_events, then_kept = cmsgpack.unpack(sub(record, at + 1))
  assert(type(then_events) == "table" and type(then_kept) == "table")
  if last > number then
    return nil, true
  end
  return then_events, then_kept
end

-- The results of this very call, if it was done before; nil, and whether a later one was. A record
-- that cannot be read is as good as none.
local function results_again()
  if not (number and record) then
    return nil
  end
  local sound, then_events, then_kept = pcall(read_record)
  if not sound then
    record = false
    return nil
  elseif not then_events then
    return nil, then_kept
  end
  events = then_events
  local results = {}
  for n, each in ipairs(then_kept) do
    if each == KEPT_OK then
      results[n] = OK
    elseif each[1] == "claim" then
      local done, claimed = pcall(claim_again, each)
      results[n] = done and claimed or { "raised", claimed.err or tostring(claimed) }
    else
      results[n] = each
    end
  end
  return results
end

-- Remember the process and the format, and forget some processes that have not called for long.
local function remember_process()
  for _, whom in ipairs(call("HRANDFIELD", KEYS[1], 2) or {}) do
    if whom ~= "@" and heard_of(whom) < steady - FORGOTTEN then
      call("HDEL", KEYS[1], whom)
    end
  end
  if broker[4] <= FORMAT then
    broker[4], broker[5] = FORMAT, max(broker[5], OLDEST)
  end
  write_calls("@", broker_now())
  if not record then
    write_calls(process, pack(-1, steady))
  end
end
