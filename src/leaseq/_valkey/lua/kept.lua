-- Values that are kept for a time, each under a name: strings of the server's own.
--
-- The key of a value is that of the queue's part `kept`, a slash, the number that the queue was made
-- with, a slash, and the name; no name of a queue has a slash. The values of a queue that was deleted
-- are so not those of the next one of its name. A value begins with the time at which it is over, in
-- seven bytes: by `now`, as all else; the server forgets it by its own clock. The part itself is the
-- processes that wait for a value: a sorted set of one score, whose members are like those of parks,
-- without a stamp.

local values = lazily(function()
  local MOST = 4000000 -- bytes of values of a queue in the answers of one call, but for the last one

  local function take_values()
    local found = {}
    for n = 1, take_number() do
      found[n] = { name = take(), ttl = take_number(), body = take(), instead = take() }
    end
    return found
  end

  local function key_of(q, name)
    if not q.values_at then
      local raw = call("HGET", KEYS[2], q.name)
      local made = raw and select(3, cmsgpack.unpack_limit(raw, 2)) or 0
      q.values_at = q.kept .. "/" .. digits(made) .. "/"
    end
    return q.values_at .. name
  end

  -- Tell the processes that wait for the value of a name, and forget that they do.
  local function tell_all(q, name)
    local prefix = waiters.want_prefix(name)
    for _, member in ipairs(call("ZRANGE", q.kept, "[" .. prefix, "(" .. prefix .. "\255", "BYLEX")) do
      call("ZREM", q.kept, member)
      waiters.tell(waiters.process_of(member), q.name .. "\0v" .. name)
    end
  end

  -- A span, most values of a call have one, as the server takes it; and when it will be over.
  local last_ttl, last_now, last_span, last_end

  -- Keep a value; true: the server has no room for it, or may not keep it. What it has instead is
  -- shorter than the item whose lease has ended with it, and kept on a full server too.
  local function keep_one(q, name, ttl, body, instead)
    if ttl ~= last_ttl or now ~= last_now then
      last_ttl, last_now = ttl, now
      last_span = digits(max(1, math.ceil(ttl / 1000)))
      last_end = struct.pack(">I7", now + ttl)
    end
    local raw = last_end .. (full and instead or body)
    local done = redis.pcall("SET", key_of(q, name), raw, "PX", last_span)
    q.n_waiting = q.n_waiting or call("ZCARD", q.kept)
    if q.n_waiting > 0 then
      tell_all(q, name)
    end
    return full or done.err
  end

  -- Keep values; true: not all were.
  local function keep(q, found)
    local refused = false
    for _, each in ipairs(found) do
      refused = keep_one(q, each.name, each.ttl, each.body, each.instead) or refused
    end
    return refused and true
  end

  -- The same of values whose number is at `at` in the arguments.
  local function keep_at(q, at)
    local refused = false
    for n = at + 1, at + 4 * ARGV[at], 4 do
      refused = keep_one(q, ARGV[n], tonumber(ARGV[n + 1]), ARGV[n + 2], ARGV[n + 3]) or refused
    end
    return refused and true
  end

  local function keep_values()
    local q, found = take_queue(), take_values()
    if not q then
      return GONE
    end
    if full then
      return { "raised", full }
    end
    keep(q, found)
    return OK
  end

  local function wait_for(q, name)
    waiters.drop_stale(q.kept)
    call("ZADD", q.kept, 0, waiters.member(name, 0, process))
    q.n_waiting = nil
  end

  -- A value, and whether there is one. It is not kept with the results of the call: it may be large.
  local function recall()
    local q, name, waits = take_queue(), take(), take() == "1"
    if not q then
      return GONE
    end
    local key = key_of(q, name)
    local before = q.recalled or 0
    if before > MOST then
      return { "ok", 1 } -- or not: the caller asks again
    end
    local raw = call("GET", key)
    if raw and struct.unpack(">I7", raw) > now then
      q.recalled = before + #raw
      remember_result({ "ok", 1 })
      return { "ok", 1, sub(raw, 8) }
    end
    if waits and not full then
      wait_for(q, name)
    end
    return { "ok", 0 }
  end

  local function stop_waiting()
    local q, names = take_queue(), {}
    for n = 1, take_number() do
      names[n] = take()
    end
    if not q then
      return GONE
    end
    for _, name in ipairs(names) do
      call("ZREM", q.kept, waiters.member(name, 0, process))
    end
    return OK
  end

  return {
    take_values = take_values, keep = keep, keep_at = keep_at, keep_values = keep_values, recall = recall,
    stop_waiting = stop_waiting,
  }
end)
