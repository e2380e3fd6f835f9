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

-- The number of delayed items, counted by their timers: ready ones may have some too, and a member
-- that others have written is nobody's. If that is too much to read, as many as there can be.
local function count_delayed(q)
  local n_timers = call("ZCARD", q.timers)
  if n_timers == 0 or n_timers > lot_size(q) then
    return min(q.n_delayed, n_timers)
  end
  local members, keys, count = call("ZRANGE", q.timers, 0, -1), {}, 0
  for n, member in ipairs(members) do
    keys[n] = sub(member, 8)
  end
  local raws = redis.pcall("HMGET", q.items, unpack(keys))
  for n, key in ipairs(keys) do
    local item = item_in(raws[n])
    local is_its = item and item.state == DELAYED and timer_member(key, item) == members[n]
    count = is_its and count + 1 or count
  end
  return count
end

-- Count anew, where lines and counts were found to be at odds.
local function recount(q)
  q.n_ready, q.n_leased = call("ZCARD", q.ready), call("ZCARD", q.leased)
  q.n_delayed = count_delayed(q)
  q.n_buffered = q.n_leased > 0 and q.n_buffered or 0
  q.changed = true
end

-- Whether something of a tenant can be claimed.
local function claimable(q, tenant)
  if q.n_ready == 0 or q.paused > 0 then
    return false
  end
  if not q.fair then
    return tenant == ""
  end
  return schedule.claimable(q, tenant)
end

-- The key, the tenant and the member of an item that can be claimed; nil: nothing can be. `turn`
-- finds the tenant: `schedule.next_turn`, or `schedule.peek_turn`, which moves no virtual time.
local function next_item(q, turn)
  if q.n_ready == 0 or q.paused > 0 then
    return nil
  end
  local tenant = q.fair and turn(q)
  if q.fair and not tenant then
    return nil
  end
  local key, member = head(q, tenant)
  return key, tenant or "", member
end

-- The time since which the last item of the same tenant and priority has been ready; 0: none that
-- came to the back.
local function ready_before(q, key, item)
  local member = member_of(key, item)
  local line = sub(member, 1, place_at(member) + 4)
  local last = call("ZRANGE", q.ready, "(" .. line .. "\255", "[" .. line, "BYLEX", "REV", "LIMIT", 0, 1)[1]
  local other = last and read_item(q, key_of(last))
  return other and other.rank >= 0 and other.since or 0
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
    if since then -- but in the order of the line, so that its first has been ready for longest
      item.since = max(since, ready_before(q, key, item))
    end
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
    q.n_delayed = max(0, q.n_delayed - 1)
    call("ZREM", q.timers, timer_member(key, item))
    return
  end
  q.n_ready = max(0, q.n_ready - 1)
  call("ZREM", q.ready, member_of(key, item))
  if item.expires < NEVER then
    call("ZREM", q.timers, timer_member(key, item))
  end
  if q.fair then
    schedule.remove(q, item)
  end
end
