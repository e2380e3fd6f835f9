-- Lost replies: the last numbered call of each process, from which its reply can be made again.
--
-- A process whose reply was lost sends the same call once more. Nothing is done then. The answers
-- of its operations are kept as they were. Of a claim only its leases are kept, and the items are
-- read again; those that their leases do not hold any more are left out.

local FORGOTTEN = 3600000000 -- a process that has not called for so long is
local KEPT_OK = 1 -- in place of the most frequent result

local is_kept = true -- false: nothing is kept of any call of this script

-- Of the call
local number -- nil or false: not recorded
local kept -- the results to keep, by operation; nil: as it is
local operation

local function remember_claim(index, result)
  if not number then
    return
  end
  local record = { "claim", index, result[3] }
  for at = 4, #result do
    local leases = {}
    for _, lease in ipairs(result[at]) do
      leases[#leases + 1] = lease[1]
      leases[#leases + 1] = lease[3]
    end
    record[at] = leases
  end
  kept[operation] = record
end

local function remember_call(results)
  for at = 4, #results do
    local result = results[at]
    kept[at - 3] = kept[at - 3] or (result == OK and KEPT_OK or result)
  end
  local record = pack(number, wall) .. pack(events, kept)
  if type(redis.pcall("HSET", KEYS[1], process, record)) == "table" then
    call("HDEL", KEYS[1], "") -- a full server takes what may need memory after a first write only
    call("HSET", KEYS[1], process, record)
  end
end

local function claim_again(record)
  local q = queue_at(record[2])
  if not q then
    return GONE
  end
  local result = { "ok", total(q), record[3] }
  for at = 4, #record do
    local leases = {}
    for n = 1, #record[at], 2 do
      local key = record[at][n]
      local item = find_held(q, key, record[at][n + 1])
      if item then
        leases[#leases + 1] = lease_of(key, item)
      end
    end
    result[at] = leases
  end
  return result
end

-- The results of this very call, if it was done before; nil, and whether a later one was.
local function results_again()
  local record = number and call("HGET", KEYS[1], process)
  if not record then
    return nil
  end
  local at, last = cmsgpack.unpack_limit(record, 2)
  if last ~= number then
    return nil, last > number
  end
  local then_events, then_kept = cmsgpack.unpack(sub(record, at + 1))
  events = then_events
  local results = {}
  for n, each in ipairs(then_kept) do
    if each == KEPT_OK then
      results[n] = OK
    else
      results[n] = each[1] == "claim" and claim_again(each) or each
    end
  end
  return results
end

-- Remember the process, and forget some that have not called for long.
local function remember_process()
  for _, whom in ipairs(call("HRANDFIELD", KEYS[1], 2) or {}) do
    local _, _, heard = cmsgpack.unpack_limit(call("HGET", KEYS[1], whom), 2)
    if heard < wall - FORGOTTEN then
      call("HDEL", KEYS[1], whom)
    end
  end
  if call("HEXISTS", KEYS[1], process) == 0 then
    call("HSET", KEYS[1], process, pack(-1, wall))
  end
end
