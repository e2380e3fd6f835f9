-- Leases: the items that they hold, and their end.
--
-- The leases of a queue are a sorted set by their deadlines, whose members are the token, in seven
-- bytes, and the key: so of equal deadlines they are in the order of their hand-outs.

local function lease_member(key, item)
  return struct.pack(">I7", item.rank) .. key
end

local function leased_key(member)
  return sub(member, 8)
end

-- The item that a lease holds, past its deadline or not; nil: it holds nothing any more.
local function find_leased(q, key, token)
  local item = read_item(q, key)
  if item and item.state == LEASED and item.rank == tonumber(token) then
    return item
  end
end

-- The item that a lease holds, or held until it was cancelled, if its holder has not ended. A lease past
-- its deadline is lost, whether or not it was swept.
local function find_held(q, key, token)
  local item = find_leased(q, key, token)
  if item and item.cancelled then
    return item
  end
  if item and (tonumber(call("ZSCORE", q.leased, lease_member(key, item))) or NEVER) > now then
    return item
  end
end

-- Note for the turns of tenants that a lease of one has ended.
local function note_end(q, tenant)
  if q.fair and schedule.end_lease(q, tenant) then
    q.freed = q.freed or {}
    q.freed[#q.freed + 1] = tenant
  end
end

-- Its time to live has ended with its first lease.
local function end_lease(q, key, item)
  q.changed = true
  item.expires = NEVER
  call("ZREM", q.leased, lease_member(key, item))
  q.n_leased = max(0, q.n_leased - 1)
  note_end(q, item.tenant)
end

-- The key of the first whose deadline has passed, of leases or timers, when, and its member; nil: none
-- has.
local function first_over(line)
  local first = call("ZRANGE", line, 0, 0, "WITHSCORES")
  local deadline = tonumber(first[2]) or NEVER
  if deadline <= now then
    return sub(first[1], 8), deadline, first[1]
  end
end
