-- Putting items: what a put is refused for, and what it does in each state of its key. And taking
-- one out again that waits.

local puts = lazily(function()
  local READY_BYTE = string.char(READY)
  local OUTCOMES = { added = "a", replaced = "r", updated = "u", duplicate = "d", buffered = "b" }

  local function take_terms()
    local terms = {
      if_in_flight = take(),
      priority = take_number(), -- nil: none
      tenant = take(),
      delay = take_number(),
      ttl = take_span(),
      reschedule = take(),
    }
    return terms
  end

  -- Raise if a put is beyond the limits: a process that checks them does not ask for such a one.
  local function check_limits(keys, bodies, terms)
    local size = 0
    for n, key in ipairs(keys) do
      if #key > MOST_KEY then
        too_long("a key")
      end
      size = size + #bodies[n]
    end
    if #keys > MOST_ITEMS or size > MOST_BODIES then
      too_long("a put")
    elseif #terms.tenant > MOST_NAME then
      too_long("a tenant's name")
    end
  end

  -- Why an item that is there cannot be put on; nil: it can.
  local function refusal(tenant, leased, terms, index)
    if leased and terms.if_in_flight == "reject" then
      return { "error", "in_flight", index }
    end
    if terms.tenant ~= "" and terms.tenant ~= tenant then
      return { "error", "tenant", index, tenant }
    end
  end

  -- Whether a key that is absent was done so lately that it is not taken again.
  local function is_duplicate(q, key)
    if q.dedupe_for <= 0 then
      return false
    end
    local taken_again = call("ZSCORE", q.done, key)
    return taken_again and tonumber(taken_again) > now
  end

  -- A put on an item that waits: the value is replaced, the place kept, unless it has to move.
  local function replace(q, key, item, body, terms)
    local delayed = item.state == DELAYED
    local due = delayed and item.due or -NEVER
    if terms.reschedule == "latest" then
      due = now + terms.delay
    elseif delayed then
      due = min(due, now + terms.delay)
    end
    due = max(due, item.rest)
    local higher = terms.priority and terms.priority > item.priority
    local is_lost = not delayed and not call("ZSCORE", q.ready, member_of(key, item)) -- in no line
    if delayed or higher or is_lost or due > now then
      take_out(q, key, item)
      count_letter(q, item, -1)
      item.body, item.letter = body, 0
      item.priority = higher and terms.priority or item.priority
      item.expires = terms.ttl < NEVER and now + terms.ttl or item.expires
      let_wait(q, key, item, due, "back")
      if not (delayed or is_lost) and item.state == READY then -- there is no more to be had than before
        q.came[#q.came], q.came[#q.came - 1] = nil, nil
      end
      return
    end
    count_letter(q, item, -1)
    item.body, item.letter = body, 0
    if terms.ttl < NEVER then
      item.expires = now + terms.ttl
      set_timer(q, key, item, item.expires)
    end
    write_item(q, key, item)
  end

  local function put_in_flight(q, key, item, body, terms)
    local after = moves.read_after(q, key, item)
      or { buffered = false, priority = item.priority, due = 0, expires = NEVER }
    after.body, after.letter = body, 0
    after.priority = max(after.priority, terms.priority or after.priority)
    local outcome = OUTCOMES.updated
    if terms.if_in_flight ~= "update" or after.buffered or item.cancelled then
      outcome = OUTCOMES.buffered
      local due = now + terms.delay
      if not after.buffered then
        after.buffered = true
        after.due = due
        q.n_buffered = q.n_buffered + 1
      else
        after.due = terms.reschedule == "latest" and due or min(after.due, due)
      end
      if terms.ttl < NEVER then
        after.expires = now + terms.ttl
      end
    end
    moves.write_after(q, key, after)
    local kind = after.buffered and BUFFERED or UPDATE
    if item.after ~= kind then
      item.after = kind
      write_item(q, key, item)
    end
    return outcome
  end

  local function new_put(body, terms)
    return new_item(body, terms.tenant, terms.priority or NORMAL, now + terms.ttl)
  end

  -- Put a key, whatever state it is in; nothing may be against it. `item` is what is there, if it has
  -- been read.
  local function put_item(q, key, body, terms, item)
    q.changed, q.has_put = true, true
    local raw
    if not item then
      item, raw = read_item(q, key)
      if raw then
        item = moves.scrap(q, key, raw)
      end
    end
    note_size(q, body)
    if not item then
      if is_duplicate(q, key) then
        return OUTCOMES.duplicate
      end
      let_wait(q, key, new_put(body, terms), now + terms.delay, "back")
      return OUTCOMES.added
    end
    if item.state == LEASED then
      return put_in_flight(q, key, item, body, terms)
    end
    replace(q, key, item, body, terms)
    return OUTCOMES.replaced
  end

  -- Put keys that are absent, come once, and are ready for ever, in a queue without tenants.
  local function put_plain(q, keys, bodies, terms)
    q.changed, q.has_put = true, true
    work = work + #keys / 2
    local items, members, came = {}, {}, q.came or {}
    local priority = terms.priority or NORMAL
    local before = prefix_of("") .. struct.pack(">I4", 2147483647 - priority)
    local since_and_tail = struct.pack(">I7", now) .. pack_tail(priority, 0, "", "")
    local n_came = #came
    for n, key in ipairs(keys) do
      local place = struct.pack(">I7", q.seq + n + BIAS)
      items[2 * n - 1], items[2 * n] = key, READY_BYTE .. place .. since_and_tail .. bodies[n]
      members[2 * n - 1], members[2 * n] = 0, before .. place .. key
      came[n_came + 2 * n - 1], came[n_came + 2 * n] = key, ""
    end
    q.came = came
    q.seq = q.seq + #keys
    q.n_ready = q.n_ready + #keys
    call("HSET", q.items, unpack(items))
    call("ZADD", q.ready, unpack(members))
  end

  -- Put keys that are absent and come once: two commands for all of them.
  local function put_fresh(q, keys, bodies, terms)
    if not q.fair and terms.tenant == "" and terms.delay <= 0 and terms.ttl == NEVER then
      put_plain(q, keys, bodies, terms)
      return
    end
    q.changed, q.has_put = true, true
    local items, members = {}, {}
    work = work + #keys
    for n, key in ipairs(keys) do
      local item = new_put(bodies[n], terms)
      join(q, key, item, now + terms.delay, "back")
      if item.state == READY then
        members[#members + 1] = 0
        members[#members + 1] = member_of(key, item)
      end
      items[#items + 1] = key
      items[#items + 1] = pack_item(item)
    end
    call("HSET", q.items, unpack(items))
    if members[1] then
      call("ZADD", q.ready, unpack(members))
    end
  end

  local MOST_REPLACED = 3 * MOST_WORK -- for reading what is there of the keys of one call

  -- What there is of some keys, by key, where an absent one has nothing; nil: it is too much to read.
  local function read_lot(q, keys)
    local found, begun = {}, work
    local size = lot_size(q)
    for from = 1, #keys, size do
      if work > begun + MOST_REPLACED then
        return nil
      end
      local lot = { unpack(keys, from, min(from + size - 1, #keys)) }
      local raw = call("HMGET", q.items, unpack(lot))
      for n, key in ipairs(lot) do
        found[key] = item_in(raw[n])
        if raw[n] and not found[key] then
          found[key] = moves.scrap(q, key, raw[n])
        end
      end
    end
    return found
  end

  local function put()
    local q = take_queue()
    local terms = take_terms()
    local behind = take() == "1"
    local keys, bodies = {}, {}
    for n = 1, take_number() do
      keys[n], bodies[n] = take(), take()
    end
    if not q then
      return GONE
    end
    check_limits(keys, bodies, terms)
    if full then
      return { "raised", full }
    end
    local there = read_lot(q, keys)
    if not there then
      return { "error", "size", 1 }
    end
    local places, seen, plain = 0, {}, true
    for n, key in ipairs(keys) do
      local item = there[key]
      if item then
        local refused = refusal(item.tenant, item.state == LEASED, terms, n)
        if refused then
          return refused
        end
      end
      local fresh = not item and not seen[key] and not is_duplicate(q, key)
      places = fresh and places + 1 or places
      plain = plain and fresh
      seen[key] = true
    end
    if places > q.max_size then
      return { "never", places }
    end
    local waiting = q.n_ready + q.n_delayed
    if places > 0 and waiting + places > q.max_size then
      return { "full", places, not behind and waiters.park(q, "r") or nil }
    end
    if places > 0 and behind and q.max_size < NEVER then
      return { "full", places }
    end
    local result = { "ok" }
    if plain then
      for _, body in ipairs(bodies) do
        note_size(q, body)
        work = work + #body / BYTES
      end
      for from = 1, #keys, LOT do
        local to = min(from + LOT - 1, #keys)
        put_fresh(q, { unpack(keys, from, to) }, { unpack(bodies, from, to) }, terms)
      end
      for n = 1, #keys do
        result[n + 1] = OUTCOMES.added
      end
    else
      for n, key in ipairs(keys) do
        result[n + 1] = put_item(q, key, bodies[n], terms, there[key])
        there[key] = nil -- it may come again
      end
    end
    return result
  end

  local function discard()
    local q, key = take_queue(), take()
    if not q then
      return GONE
    end
    local item = read_item(q, key)
    if not item or item.state == LEASED then
      return { "ok", 0 }
    end
    take_out(q, key, item)
    call("HDEL", q.items, key)
    count_letter(q, item, -1)
    q.dropped, q.changed = q.dropped + 1, true
    return { "ok", 1 }
  end

  return {
    MOST_REPLACED = MOST_REPLACED, take_terms = take_terms, check_limits = check_limits, refusal = refusal, is_duplicate = is_duplicate, put_item =
    put_item, put = put, discard = discard,
  }
end)
