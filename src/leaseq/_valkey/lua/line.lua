-- The line: which items wait, in which order, and how they get in and out.
--
-- The ready items of a queue are one sorted set, all of one score, so that it is in the order of its
-- members: tenant, then priority, the highest first, then rank, then the key. All lines of all
-- tenants and priorities are so in one set; the first member is the head of a queue without
-- tenants, and the first with a tenant's prefix the head of that tenant's lines.
--
-- Three places are in one rank. Those at the *back* are counted up from 1. Those at their *old
-- place* come before all of these, in the order of their hand-outs: their rank is the last lease's
-- token less 2^52. Those at the *front* come before these: they are counted down from -2^52.

local OLD = 4503599627370496 -- 2^52, which no token reaches before the next century
local BIAS = OLD + OLD / 2 -- makes all ranks positive, and keeps them below 2^53

local function prefix_of(tenant)
  if tenant == "" then
    return "\0"
  end
  return struct.pack(">BI2", 1, #tenant - 1) .. sub(tenant, 2)
end

local function member_of(key, item)
  local place = struct.pack(">I4I7", 2147483647 - item.priority, item.rank + BIAS)
  return prefix_of(item.tenant) .. place .. key
end

-- Where the place begins in a member of the line, less one.
local function place_at(member)
  return byte(member) == 0 and 1 or 3 + byte(member, 2) * 256 + byte(member, 3)
end

local function key_of(member)
  return sub(member, place_at(member) + 12)
end

-- The first ready item of a tenant, or of a queue without tenants; there must be one.
local function head(q, tenant)
  local found
  if tenant then
    found = call("ZRANGE", q.ready, "[" .. prefix_of(tenant), "+", "BYLEX", "LIMIT", 0, 1)
  else
    found = call("ZRANGE", q.ready, 0, 0)
  end
  return key_of(found[1])
end

-- Whether something of a tenant can be claimed.
local function claimable(q, tenant)
  if q.n_ready == 0 then
    return false
  end
  if not q.fair then
    return tenant == ""
  end
  return schedule.claimable(q, tenant)
end

-- The key and the tenant of the item whose turn it is; nil: nothing can be claimed.
local function next_item(q)
  if q.n_ready == 0 then
    return nil
  end
  if not q.fair then
    return head(q), ""
  end
  local tenant = schedule.next_turn(q)
  if tenant then
    return head(q, tenant), tenant
  end
end

-- Let an item wait, in the line or until it is due. It is written by who calls. `since` is when it
-- became ready, if that was before anybody noticed.
local function join(q, key, item, due, place, since)
  item.process, item.consumer, item.after = "", "", 0
  if due > now then
    item.state, item.due, item.rank, item.since = DELAYED, due, 0, 0
    q.n_delayed = q.n_delayed + 1
    call("ZADD", q.timers, min(due, item.expires), key)
    return
  end
  item.state, item.due, item.rest, item.since = READY, 0, 0, since or now
  if place == "old" then
    item.rank = item.rank - OLD
  elseif place == "front" then
    q.front = q.front + 1
    item.rank = -OLD - q.front
  else
    q.seq = q.seq + 1
    item.rank = q.seq
  end
  if not q.fair and item.tenant ~= "" then
    schedule.begin(q)
  end
  q.n_ready = q.n_ready + 1
  if q.fair then
    schedule.push(q, item.tenant)
  end
  if item.expires < NEVER then
    call("ZADD", q.timers, item.expires, key)
  end
  local came = q.came or {}
  q.came = came
  came[#came + 1] = key
  came[#came + 1] = item.tenant
end

local function let_wait(q, key, item, due, place, since)
  join(q, key, item, due, place, since)
  if item.state == READY then
    call("ZADD", q.ready, 0, member_of(key, item))
  end
  write_item(q, key, item)
end

-- Let an item wait no more.
local function take_out(q, key, item)
  if item.state == DELAYED then
    q.n_delayed = q.n_delayed - 1
    call("ZREM", q.timers, key)
    return
  end
  q.n_ready = q.n_ready - 1
  call("ZREM", q.ready, member_of(key, item))
  if item.expires < NEVER then
    call("ZREM", q.timers, key)
  end
  if q.fair then
    schedule.remove(q, item.tenant)
  end
end
