-- Queues are made and deleted.

local declarations = lazily(function()
  local function make_state(index, name, settings)
    local q = new_queue(
      index, 2 + (index - 1) * 12, name, settings.max_size, settings.max_deliveries,
      settings.base, settings.factor, settings.ceiling, settings.history_size, settings.dedupe_for,
      0, 0, 0, 0, 0, wall - 1, wall, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    )
    q.changed = true
    for _, each in ipairs(settings.tenants) do
      if not q.fair then
        schedule.begin(q)
      end
      schedule.set_tenant(q, each.name, each.weight, each.cap)
    end
    queues[index] = q
  end

  local function make(index, name, options, letters, settings)
    if not queue_at(index) then
      make_state(index, name, settings)
    end
    local raw = call("HGET", KEYS[2], name)
    if raw then
      return entry_of(raw)
    end
    local made = call("HINCRBY", KEYS[2], "", 1)
    call("HSET", KEYS[2], name, pack(wall, made, options, letters))
    return { options = options, letters = letters }
  end

  local PLAIN = {
    max_size = NEVER, max_deliveries = NEVER, base = -1, factor = 1, ceiling = 0, history_size = 0,
    dedupe_for = 0, tenants = {},
  }

  -- Make a queue, unless it is there, and with it its queue of dead letters: else two queues, made
  -- at the same time, could each become the other's.
  local function declare()
    local index, name, options, letters = take_number(), take(), take(), take()
    local settings = {
      max_size = take_span(), max_deliveries = take_span(),
      base = take_number(), factor = take_number(), ceiling = take_number(),
      history_size = take_number(), dedupe_for = take_number(), tenants = {},
    }
    for n = 1, take_number() do
      settings.tenants[n] = { name = take(), weight = take_number(), cap = take_number() }
    end
    local entry = make(index, name, options, letters, settings)
    local letters_index = tonumber(ARGV[5 + index])
    if letters_index > 0 and entry.letters == letters then
      make(letters_index, letters, "{}", "", PLAIN)
    end
    return { "ok", entry.letters, entry.options }
  end

  -- Delete a queue, and tell all processes that are parked at it.
  local function delete()
    local q = take_queue()
    if not q then
      return GONE
    end
    local told = {}
    for _, member in ipairs(call("ZRANGE", q.parked, 0, -1)) do
      local whom = sub(member, 11 + byte(member, 1) * 256 + byte(member, 2))
      if not told[whom] then
        told[whom] = true
        waiters.tell(whom, q.name .. "\0x")
      end
    end
    call("UNLINK", q.state, q.items, q.ready, q.leased, q.timers, q.parked, q.accounts)
    call("UNLINK", q.eligible, q.early, q.idle, q.done, q.history)
    call("HDEL", KEYS[2], q.name)
    queues[q.index] = false
    return OK
  end

  return {
    declare = declare, delete = delete,
  }
end)
