-- Waiters: how processes park, and which one is woken.
--
-- A process that finds nothing parks under what it wants, and is told on a channel of its own when
-- it may be there: one item that has become ready wakes one process. A wake-up carries no item; it
-- takes the park away, and goes to the next process if the first does not listen any more. A want
-- is a letter and a name:
--
--     k key      this key                        a          any item
--     c tenant   a key, when the tenant is       t tenant   any item of a tenant
--                under its cap                   s tenant   the same, if it has nothing of its own
--     A T S      the same as a t s, for a        r          room
--                process that has some already   j          an empty queue
--
-- All are in one sorted set of one score, whose members are the want, with its length before it, the
-- stamp, and the process. So the oldest of a want is the first of a range.
--
-- Operations only note what they have done: `came`, `freed`, and the counters. The processes to be
-- woken for it are found at the end of each operation.

local waiters = lazily(function()
  local LOOKED_AT = 100 -- wants, for one that can be served
  local OVERLOOKED = 500000 -- after so long, the process that was woken for an item does not come
  local WAKING = 1000 -- work, for the wake-ups of one operation; those that are woken wake others
  local ASKED = 500 -- parks of processes that do not listen, before one that does
  local STALE = 60000000 -- a process that has not been heard of for so long does not wait

  -- The beginning of the names of all channels: the key of the calls ends in "calls".
  local function channel()
    return sub(KEYS[1], 1, -6) .. "p:"
  end

  local function want_prefix(want)
    return struct.pack(">I2", #want) .. want
  end

  local function member_of_park(want, stamp, whom)
    return want_prefix(want) .. struct.pack(">I8", stamp) .. whom
  end

  local function process_of(member)
    return sub(member, 11 + byte(member, 1) * 256 + byte(member, 2))
  end

  local function unpark_member(q, member)
    local gone = call("ZREM", q.parked, member)
    q.n_parked = n_parked(q) - gone
    return gone == 1
  end

  -- Tell a process something; false: it does not listen. The name of one that has come to a cluster
  -- begins with "!": it listens on the shard.
  local function tell(whom, message)
    if byte(whom) == 33 then
      return call("SPUBLISH", channel() .. sub(whom, 2), message) > 0
    end
    return call("PUBLISH", channel() .. whom, message) > 0
  end

  -- The oldest park under a want, and its stamp.
  local function oldest(q, want)
    local prefix = want_prefix(want)
    local first = call("ZRANGE", q.parked, "[" .. prefix, "(" .. prefix .. "\255", "BYLEX", "LIMIT", 0, 1)
    local member = first[1]
    if member then
      return member, sub(member, #prefix + 1, #prefix + 8)
    end
  end

  -- Wake one process; false: none listens.
  local function wake_one(q, want, also)
    for _ = 1, ASKED do
      if n_parked(q) == 0 then
        return false
      end
      work = work + 2
      local member, stamp = oldest(q, want)
      local chosen = want
      if also then
        local other, other_stamp = oldest(q, also)
        if other and (not member or other_stamp < stamp) then
          member, chosen = other, also
        end
      end
      if not member then
        return false
      end
      unpark_member(q, member)
      if tell(sub(member, #chosen + 11), q.name .. "\0" .. chosen) then
        return true
      end
    end
    return false
  end

  -- Wake a process that may have the next item of a tenant. It need not be the one that came.
  local function wake_for_tenant(q, tenant)
    return wake_one(q, "a", "t" .. tenant)
      or wake_one(q, "s" .. tenant)
      or wake_one(q, "A", "T" .. tenant)
      or wake_one(q, "S" .. tenant)
  end

  -- Wake a process that may have an item that is ready.
  local function wake_for(q, key, tenant)
    if n_parked(q) == 0 or q.paused > 0 then
      return false
    end
    return wake_one(q, "k" .. key) or (claimable(q, tenant) and wake_for_tenant(q, tenant))
  end

  -- Wake a process for a tenant that may have come under its cap.
  local function wake_for_slot(q, tenant)
    if n_parked(q) == 0 or not claimable(q, tenant) then
      return false
    end
    return wake_one(q, "c" .. tenant) or wake_for(q, head(q, tenant), tenant)
  end

  -- The want of a member.
  local function want_of(member)
    return sub(member, 3, 2 + byte(member, 1) * 256 + byte(member, 2))
  end

  -- Wake a process that waits for some tenants, if one of these has something.
  local function wake_for_some(q)
    local from = "-"
    for _ = 1, LOOKED_AT do
      local member = call("ZRANGE", q.parked, from, "+", "BYLEX", "LIMIT", 0, 1)[1]
      if not member then
        return
      end
      local want = want_of(member)
      local kind, tenant = sub(want, 1, 1), sub(want, 2)
      local named = kind == "t" or kind == "s" or kind == "T" or kind == "S"
      if named and claimable(q, tenant) and wake_for_tenant(q, tenant) then
        return
      end
      from = "(" .. want_prefix(want) .. "\255"
    end
  end

  -- Wake a process for what is left. One that was woken for an item may have been given another
  -- tenant's: so if none waits for the next item, one may for another item.
  local function wake_next(q)
    if n_parked(q) > 0 then
      local key, tenant = next_item(q, schedule.peek_turn)
      if key and not wake_for(q, key, tenant) and q.fair then
        wake_for_some(q)
      end
    end
  end

  -- Wake a process for a key that it wants, if the key is ready. The tenant of the key, if one was
  -- woken, even if it has to wait on, for a cap or another pause.
  local function wake_for_key(q, want)
    local item = read_item(q, sub(want, 2))
    if item and item.state == READY and wake_one(q, want) then
      return item.tenant
    end
  end

  -- Wake processes for the items that are ready, once the queue is resumed: none was woken for items
  -- that came meanwhile. Processes that were woken wake the next ones.
  local function wake_after_pause(q)
    local enough, from, served = work + WAKING, "-", {}
    while n_parked(q) > 0 and work < enough do
      local member = call("ZRANGE", q.parked, from, "+", "BYLEX", "LIMIT", 0, 1)[1]
      if not member then
        break
      end
      local want = want_of(member)
      local tenant = sub(want, 1, 1) == "k" and wake_for_key(q, want)
      if tenant then
        served[tenant] = (served[tenant] or 0) + 1
      end
      work = work + 1
      from = "(" .. want_prefix(want) .. "\255"
    end
    local tenants = q.fair and schedule.competing(q, LOOKED_AT) or { "" }
    for _, tenant in ipairs(tenants) do
      local count = q.fair and schedule.slots_of(q, tenant) or q.n_ready
      local so_far = served[tenant] or 0
      while so_far < count and work < enough and wake_for_tenant(q, tenant) do
        so_far = so_far + 1
        served[tenant] = so_far
      end
    end
    q.wakes_next = next(served) == nil
  end

  local function wake_for_room(q)
    if q.n_ready + q.n_delayed < q.max_size then
      wake_one(q, "r")
    end
  end

  -- Wake all processes that are to be woken for what an operation has done to a queue.
  local function wake_all(q, waiting)
    local came, freed = q.came or {}, q.freed
    local enough = work + WAKING
    for at = 1, #came, 2 do
      if n_parked(q) == 0 or work > enough then
        break
      end
      wake_for(q, came[at], came[at + 1])
    end
    if freed then
      local served = {} -- tenants for whose items a process was woken above
      for at = 2, #came, 2 do
        served[came[at]] = true
      end
      for _, tenant in ipairs(freed) do
        if work > enough then
          break
        end
        if not served[tenant] or oldest(q, "c" .. tenant) then
          wake_for_slot(q, tenant)
        end
      end
    end
    if q.max_size < NEVER and (waiting < q.had_waiting or q.has_put) then
      wake_for_room(q)
    end
    local items = waiting + q.n_leased
    if items == 0 and q.had_items > 0 then
      for _ = 1, ASKED do -- others ask for themselves
        if work > enough or not wake_one(q, "j") then
          break
        end
      end
    end
    if q.wakes_next then
      wake_next(q)
    end
  end

  -- Forget two parks, drawn at random, if their processes are gone; return the number of those that
  -- were forgotten.
  local function drop_stale(parked)
    local gone = 0
    for _, member in ipairs(call("ZRANDMEMBER", parked, 2)) do
      local whom = process_of(member)
      if whom ~= process then
        if heard_of(whom) < steady - STALE then
          gone = gone + call("ZREM", parked, member)
        end
      end
    end
    return gone
  end

  -- Park this process; the stamp tells one of its parks from another. nil: the server has no memory
  -- for that, and the caller has to ask again.
  local function park(q, want)
    if full then
      return nil
    end
    work = work + 1
    local gone = drop_stale(q.parked)
    q.n_parked = n_parked(q) - gone
    local stamp = max(q.stamp + 1, wall)
    local member = member_of_park(want, stamp, process)
    local made = redis.pcall("ZADD", q.parked, 0, member)
    if type(made) == "table" and made.err:find("READONLY", 1, true) then
      error(made) -- it waits at another server
    elseif made ~= 1 then
      return nil
    end
    q.stamp, q.changed = stamp, true
    q.n_parked = n_parked(q) + 1
    return stamp
  end

  local function parked_member(want, stamp)
    return member_of_park(want, tonumber(stamp), process)
  end

  local function is_parked(q, want, stamp)
    return n_parked(q) > 0 and call("ZSCORE", q.parked, parked_member(want, stamp))
  end

  -- The item that a process that wants this would get next; nil: none.
  local function next_for(q, want)
    local kind, name = sub(want, 1, 1), sub(want, 2)
    if q.n_ready == 0 then
      return nil
    elseif kind == "a" or kind == "A" then
      local key = next_item(q, schedule.peek_turn)
      return key and read_item(q, key)
    elseif kind == "k" then
      local item = read_item(q, name)
      return item and item.state == READY and claimable(q, item.tenant) and item
    elseif kind == "t" or kind == "T" or kind == "s" or kind == "S" then
      return claimable(q, name) and read_item(q, head(q, name))
    end
  end

  -- True if what a parked process waits for has been there for long: the process that was woken
  -- for it sleeps, or is cut off unnoticed. For room there is no record of how long it has been there.
  local function is_overlooked(q, want, places)
    local kind = sub(want, 1, 1)
    if kind == "r" then
      return q.n_ready + q.n_delayed + places <= q.max_size
    elseif kind == "j" then
      return total(q) == 0
    elseif late() then
      return false -- it is looked at the next time
    end
    work = work + 1
    local item = next_for(q, want)
    return item and item.since < now - OVERLOOKED
  end

  return {
    channel = channel, tell = tell, wake_for = wake_for, wake_for_slot = wake_for_slot, wake_next = wake_next,
    wake_after_pause = wake_after_pause, wake_for_room = wake_for_room, wake_all = wake_all, park = park, is_parked = is_parked,
    is_overlooked = is_overlooked, parked_member = parked_member, unpark_member = unpark_member,
    want_prefix = want_prefix, member = member_of_park, process_of = process_of, drop_stale =
    drop_stale,
  }
end)
