-- The line: which items wait, and how they get in and out. How it is kept is said in item.lua.

-- The timers of a queue are a sorted set by when something happens to an item that waits, whose
-- members are the item's `order`, in seven bytes, and its key.

local function timer_member(key, item)
  return struct.pack(">I7", item.order) .. key
end

local function set_timer(q, key, item, time)
  if item.order == 0 then
    q.seq = q.seq + 1
    item.order = q.seq
  end
  call("ZADD", q.timers, time, timer_member(key, item))
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

-- The key and the tenant of an item that can be claimed; nil: nothing can be. `turn` finds the
-- tenant: `schedule.next_turn`, or `schedule.peek_turn`, which moves no virtual time.
local function next_item(q, turn)
  if q.n_ready == 0 then
    return nil
  end
  if not q.fair then
    return head(q), ""
  end
  local tenant = turn(q)
  if tenant then
    return head(q, tenant), tenant
  end
end

-- Let an item wait, in the line or until it is due. The caller writes it. `since` is the time at
-- which it became ready, if that has passed.
local function join(q, key, item, due, place, since)
  item.process, item.consumer, item.after = "", "", 0
  if due > now then
    item.state, item.due, item.rank, item.since = DELAYED, due, 0, 0
    q.n_delayed = q.n_delayed + 1
    set_timer(q, key, item, min(due, item.expires))
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
    schedule.push(q, item)
  end
  if item.expires < NEVER then
    set_timer(q, key, item, item.expires)
  else
    item.order = 0
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

-- Take an item that waits out of the line, or out of the timers.
local function take_out(q, key, item)
  if item.state == DELAYED then
    q.n_delayed = q.n_delayed - 1
    call("ZREM", q.timers, timer_member(key, item))
    return
  end
  q.n_ready = q.n_ready - 1
  call("ZREM", q.ready, member_of(key, item))
  if item.expires < NEVER then
    call("ZREM", q.timers, timer_member(key, item))
  end
  if q.fair then
    schedule.remove(q, item)
  end
end
