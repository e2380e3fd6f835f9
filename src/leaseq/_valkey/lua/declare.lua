-- Queues are made and deleted.

local declarations = lazily(function()
  local function make_state(index, name, settings)
    local q = new_queue(
      index, 2 + (index - 1) * 13, name, settings.max_size, settings.max_deliveries,
      settings.base, settings.factor, settings.ceiling, settings.history_size, settings.dedupe_for,
      0, 0, 0, 0, 0, wall - 1, wall, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
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
      return entry_of(raw) or { options = "", letters = "", number = 0 }
    end
    local made = call("HINCRBY", KEYS[2], "", 1)
    call("HSET", KEYS[2], name, pack(wall, made, options, letters))
    return { options = options, letters = letters, number = made }
  end

  local PLAIN = {
    max_size = NEVER, max_deliveries = NEVER, base = -1, factor = 1, ceiling = 0, history_size = 0,
    dedupe_for = 0, tenants = {},
  }

  -- The group in the options of a queue; false: they cannot be read.
  local function group_in(options)
    local sound, read = pcall(cjson.decode, options)
    return sound and type(read) == "table" and (read.group or "")
  end

  -- Whether dead letters are there, in another group than they would be made in.
  local function are_elsewhere(letters, options)
    local raw = letters ~= "" and call("HGET", KEYS[2], letters)
    if not raw then
      return false
    end
    local entry = entry_of(raw)
    local group = entry and group_in(entry.options)
    if not group then
      error({ err = "CORRUPT what is kept of the queue of dead letters '" .. letters
        .. "' cannot be read: delete that queue, by delete_queue(), and make both again" })
    end
    return group ~= group_in(options)
  end

  -- Make a queue, unless it is there, and with it its queue of dead letters: else two queues, made
  -- at the same time, could each become the other's; or one could be made in one group, and its dead
  -- letters in another.
  local function declare()
    local index, name, options, letters, letters_options = take_number(), take(), take(), take(), take()
    local settings = {
      max_size = take_span(), max_deliveries = take_span(),
      base = take_number(), factor = take_number(), ceiling = take_number(),
      history_size = take_number(), dedupe_for = take_number(), tenants = {},
    }
    for n = 1, take_number() do
      settings.tenants[n] = { name = take(), weight = take_number(), cap = take_number() }
    end
    if call("HEXISTS", KEYS[2], name) == 0 and are_elsewhere(letters, letters_options) then
      return { "no" }
    end
    local entry = make(index, name, options, letters, settings)
    local letters_index = tonumber(ARGV[5 + index])
    local is_theirs = letters_index > 0 and entry.letters == letters
    if is_theirs and group_in(entry.options) == group_in(letters_options) then
      make(letters_index, letters, letters_options, "", PLAIN)
    end
    return { "ok", entry.letters, entry.options, entry.number }
  end

  local TOLD = 1000 -- parks whose processes are told: others see it when they look

  local function tell_parked(name, parked)
    local told = {}
    for _, member in ipairs(call("ZRANGE", parked, 0, TOLD - 1)) do
      local whom = waiters.process_of(member)
      if not told[whom] then
        told[whom] = true
        waiters.tell(whom, name .. "\0x")
      end
    end
  end

  -- Delete a queue, and tell processes that are parked at it. Nothing of it need be readable.
  local function delete()
    local index, name = take_number(), take()
    local at = 2 + (index - 1) * 13
    local parts = { unpack(KEYS, at + 1, at + 13) }
    pcall(tell_parked, name, parts[6])
    pcall(tell_parked, name, parts[13])
    queues[index] = false
    return call("HDEL", KEYS[2], name) + call("UNLINK", unpack(parts)) > 0 and OK or GONE
  end

  return {
    declare = declare, delete = delete,
  }
end)
