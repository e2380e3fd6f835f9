-- Queries. Nothing is written here, and nothing done that has fallen due.

is_kept = false -- a query may just be asked again

local queries = lazily(function()
  -- A query of a queue that must be there; `take_field` takes the argument after it, if any.
  local function query(take_field, answer)
    return function()
      local q = take_queue()
      local field = take_field and take_field()
      if not q then
        return GONE
      end
      return answer(q, field)
    end
  end

  local STATES = { [READY] = "ready", [DELAYED] = "delayed", [LEASED] = "leased" }

  local function look()
    local q, key, wants_body = take_queue(), take(), take() == "1"
    if not q then
      return GONE
    end
    local item = read_item(q, key)
    if not item then
      return { "ok", "absent" }
    elseif not wants_body then
      return { "ok", STATES[item.state] }
    end
    local newest = moves.look_at_after(q, key, item) or item
    spend_on(newest.body)
    return { "ok", STATES[item.state], read_body(newest.body, newest.letter) }
  end

  -- A page of the ready keys, in the order of the line, from a place.
  local ready = query(take, function(q, from)
    local members = call("ZRANGE", q.ready, from == "" and "-" or from, "+", "BYLEX", "LIMIT", 0, LOT)
    local result = { "ok", #members == LOT and "(" .. members[LOT] or "" }
    for _, member in ipairs(members) do
      result[#result + 1] = place_at(member) and key_of(member)
    end
    work = work + #members / 5
    return result
  end)

  -- A page of the delayed keys. Ready items with a time to live have timers too: where there are such,
  -- each item is read.
  local delayed = query(take, function(q, from)
    local are_all = call("ZCARD", q.timers) == q.n_delayed
    local result = { "ok", "" }
    result[2] = walk(from, are_all and LOT or min(500, lot_size(q)), function(at, count)
      return call("ZSCAN", q.timers, at, "COUNT", count)
    end, function(member)
      local key = leased_key(member)
      local item = not are_all and read_item(q, key)
      if are_all or item and item.state == DELAYED then
        result[#result + 1] = key
      end
      work = work + 0.2
    end)
    return result
  end)

  local leased = query(take, function(q, from)
    local result = { "ok", "" }
    result[2] = walk(from, LOT, function(at, count)
      return call("ZSCAN", q.leased, at, "COUNT", count)
    end, function(member)
      result[#result + 1] = leased_key(member)
      work = work + 0.2
    end)
    return result
  end)

  local LOOKED_AT = 1000 -- items, to find the one that has been ready for longest

  -- The age of the item that has been ready for longest; -1: none is. Of those at the back of one
  -- line that is the first; those before them may have come in any order.
  local function oldest_age(q)
    local oldest, from = NEVER, "-"
    for _ = 1, LOOKED_AT do
      local member = call("ZRANGE", q.ready, from, "+", "BYLEX", "LIMIT", 0, 1)[1]
      if not member then
        break
      end
      local item = place_at(member) and read_item(q, key_of(member))
      from = "(" .. member
      if item then
        oldest = min(oldest, item.since)
        local line = sub(member, 1, place_at(member) + 4)
        from = item.rank < 0 and from or "(" .. line .. "\255"
      end
      if late() then
        break
      end
    end
    return oldest == NEVER and -1 or max(0, now - oldest)
  end

  -- A page of tenants, with what each has ready and leased.
  local tenants = query(take, function(q, from)
    if not q.fair then
      return { "ok", "", "", q.n_ready, q.n_leased }
    end
    local result = { "ok", "" }
    result[2] = walk(from, 500, function(at, count)
      return call("HSCAN", q.accounts, at, "COUNT", count)
    end, function(tenant)
      local account = schedule.is_name(tenant) and schedule.find(q, tenant)
      if account then
        result[#result + 1] = tenant
        result[#result + 1] = account.ready
        result[#result + 1] = account.in_flight
      end
    end)
    return result
  end)

  local counts = query(nil, function(q)
    local left = q.acked + q.dead + q.dropped + q.superseded + q.cancelled
    return {
      "ok", q.n_ready, q.n_delayed, q.n_leased, q.n_buffered, total(q) + left,
      q.handed_out - q.undone - q.given_back, q.acked, q.released, q.expired, q.given_back, q.dead,
      q.dropped, q.superseded, q.cancelled, oldest_age(q), q.paused > 0 and 1 or 0,
    }
  end)

  -- A page of leases, in no order.
  local inflight = query(take, function(q, from)
    local result = { "ok", "" }
    result[2] = page_of_leases(q, from, function(key, item, deadline)
      result[#result + 1] = {
        key, digits(item.rank), item.consumer, now - item.since,
        deadline == NEVER and -1 or max(0, deadline - now), item.deliveries, item.tenant,
        item.priority, item.cancelled and 1 or 0,
      }
    end)
    return result
  end)

  -- Add each tenant that is paused to a result, with the time and the reason.
  local function add_pauses(q, result)
    local names, fields = schedule.paused_names(q), {}
    for n, tenant in ipairs(names) do
      fields[n] = "!" .. tenant
    end
    local raws = names[1] and call("HMGET", q.accounts, unpack(fields)) or {}
    for n, raw in ipairs(raws) do
      local since, reason = schedule.read_pause(raw)
      if since then
        result[#result + 1] = names[n]
        result[#result + 1] = digits(since)
        result[#result + 1] = reason
        spend_on(raw)
      end
    end
  end

  local info = query(nil, function(q)
    local letters = q.letters_index > 0 and select(2, pcall(queue_at, q.letters_index))
    local dead = letters and letters.items and redis.pcall("HGET", letters.items, "-" .. q.name)
    local raw = call("HGET", KEYS[2], q.name)
    local entry = raw and entry_of(raw)
    local created = entry and digits(entry.created) or "0"
    local result = {
      "ok", q.name, q.n_ready, q.n_delayed, q.n_leased, tonumber(dead) or 0, created,
      digits(q.paused), q.reason,
    }
    if q.n_paused > 0 then
      add_pauses(q, result)
    end
    return result
  end)

  local HISTORY = 100 -- entries in a page of it

  -- A page of the history, the oldest first, from a place: how many items had come into it when the
  -- first page was asked for, and how many entries were left then. What comes meanwhile is left out,
  -- and so is what is no longer kept.
  local history = query(take, function(q, from)
    local came, left = from:match("^(%d+) (%d+)$")
    local length = call("LLEN", q.history)
    came, left = tonumber(came) or q.remembered, tonumber(left) or length
    local first = length - (q.remembered - came) - left
    if first < 0 then
      left, first = left + first, 0
    end
    local result = { "ok", "" }
    local count = min(left, HISTORY, lot_size(q))
    if count <= 0 then
      return result
    end
    for _, raw in ipairs(call("LRANGE", q.history, first, first + count - 1)) do
      local sound, key, body, letter, token, deliveries, ended_at, was_cancelled =
        pcall(cmsgpack.unpack, raw)
      spend_on(raw)
      if sound and ended_at then
        local read, is_letter = read_body(body, letter)
        local how = was_cancelled == 1 and "cancelled" or "acked"
        result[#result + 1] = { key, read, token, deliveries, ended_at, is_letter, how }
      end
    end
    result[2] = count < left and digits(came) .. " " .. digits(left - count) or ""
    return result
  end)

  -- True if a lease holds its item.
  local function held()
    local q, key, token = take_queue(), take(), take()
    if not q then
      return GONE
    end
    local item = find_held(q, key, token)
    if item and item.cancelled then
      return { "cancelled", item.cancelled }
    end
    return { "ok", item and 1 or 0 }
  end

  local function find_lease()
    local q, key, token = take_queue(), take(), take()
    if not q then
      return GONE
    end
    local item = find_held(q, key, token)
    if not item then
      return { "no" }
    elseif item.cancelled then
      return { "cancelled", item.cancelled }
    end
    local result = lease_of(key, item)
    table.insert(result, 1, "ok")
    local deadline = tonumber(call("ZSCORE", q.leased, lease_member(key, item))) or NEVER
    result[10] = deadline == NEVER and -1 or deadline - now
    return result
  end

  -- A page of the names of queues, each with its number, in no order, and its queue of dead letters;
  -- -1: what is kept of it cannot be read.
  local function all_queues()
    local result = { "ok", "" }
    result[2] = walk(take(), 100, function(at, count)
      return call("HSCAN", KEYS[2], at, "COUNT", count)
    end, function(name, raw)
      if name ~= "" then
        local entry = entry_of(raw)
        result[#result + 1] = name
        result[#result + 1] = entry and entry.number or -1
        result[#result + 1] = entry and entry.letters or ""
        spend_on(raw)
      end
    end)
    return result
  end

  -- The queue of dead letters and the options of a queue, if there is one of this name; "": what is
  -- kept of it cannot be read.
  local function find()
    local raw = call("HGET", KEYS[2], take())
    local entry = raw and entry_of(raw)
    if raw and not entry then
      return { "ok", "", "", 0 }
    end
    return entry and { "ok", entry.letters, entry.options, entry.number } or GONE
  end

  return {
    look = look, ready = ready, delayed = delayed, leased = leased, counts = counts,
    tenants = tenants, inflight = inflight, info = info, history = history, held = held,
    find_lease = find_lease, queues = all_queues, find = find,
  }
end)

local ops = {
  look = queries, ready = queries, delayed = queries, leased = queries, counts = queries,
  tenants = queries, inflight = queries, info = queries, history = queries, held = queries,
  find_lease = queries, queues = queries, find = queries,
}
