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
    local newest = item.after == 0 and item or moves.read_after(q, key)
    return { "ok", STATES[item.state], read_body(newest.body, newest.letter), newest.letter }
  end

  local function keys_in(set, read_key)
    local result = { "ok" }
    for n, member in ipairs(call("ZRANGE", set, 0, -1)) do
      result[n + 1] = read_key(member)
    end
    return result
  end

  local ready = query(nil, function(q)
    return keys_in(q.ready, key_of)
  end)

  local leased = query(nil, function(q)
    return keys_in(q.leased, leased_key)
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
      local item = read_item(q, key_of(member))
      oldest = min(oldest, item.since)
      local line = sub(member, 1, place_at(member) + 4)
      from = item.rank < 0 and "(" .. member or "(" .. line .. "\255"
    end
    return oldest == NEVER and -1 or max(0, now - oldest)
  end

  local function add_tenants(q, result)
    if not q.fair then
      result[#result + 1] = ""
      result[#result + 1] = q.n_ready
      result[#result + 1] = q.n_leased
      return
    end
    for _, tenant in ipairs(call("HKEYS", q.accounts)) do
      if byte(tenant) ~= 37 then
        local account = schedule.find(q, tenant)
        result[#result + 1] = tenant
        result[#result + 1] = account.ready
        result[#result + 1] = account.in_flight
      end
    end
  end

  local counts = query(take, function(q, tenants)
    local left = q.acked + q.dead + q.dropped + q.superseded
    local result = {
      "ok", q.n_ready, q.n_delayed, q.n_leased, q.n_buffered, total(q) + left,
      q.handed_out - q.undone - q.cancelled, q.acked, q.released, q.expired, q.cancelled, q.dead,
      q.dropped, q.superseded, oldest_age(q),
    }
    if tenants == "1" then
      add_tenants(q, result)
    end
    return result
  end)

  local inflight = query(nil, function(q)
    local leases = {}
    local members = call("ZRANGE", q.leased, 0, -1, "WITHSCORES")
    for n = 1, #members, 2 do
      local key, deadline = leased_key(members[n]), tonumber(members[n + 1])
      local item = read_item(q, key)
      local left = deadline == NEVER and -1 or max(0, deadline - now)
      leases[#leases + 1] = {
        token = item.rank,
        seen = {
          key, digits(item.rank), item.consumer, now - item.since, left, item.deliveries,
          item.tenant, item.priority,
        },
      }
    end
    table.sort(leases, function(one, other)
      return one.token < other.token
    end)
    local result = { "ok" }
    for n, lease in ipairs(leases) do
      result[n + 1] = lease.seen
    end
    return result
  end)

  -- `asks`: say also which queues have their dead letters there. O(queues)
  local info = query(take, function(q, asks)
    local letters = q.letters_index > 0 and queue_at(q.letters_index)
    local dead = letters and call("HGET", letters.items, "-" .. q.name)
    local raw = call("HGET", KEYS[2], q.name)
    local created = raw and digits(entry_of(raw).created) or "0"
    local result = { "ok", q.name, q.n_ready, q.n_delayed, q.n_leased, tonumber(dead) or 0, created }
    for _, entry in ipairs(asks == "1" and all_entries() or {}) do
      if entry.letters == q.name then
        result[#result + 1] = entry.name
      end
    end
    return result
  end)

  local history = query(nil, function(q)
    local result = { "ok" }
    for n, raw in ipairs(call("LRANGE", q.history, 0, -1)) do
      local key, body, letter, token, deliveries, acked_at = cmsgpack.unpack(raw)
      result[n + 1] = { key, read_body(body, letter), token, deliveries, acked_at, letter }
    end
    return result
  end)

  local function resume()
    local q, key, token = take_queue(), take(), take()
    if not q then
      return GONE
    end
    local item = find_held(q, key, token)
    if not item then
      return { "no" }
    end
    local result = lease_of(key, item)
    table.insert(result, 1, "ok")
    local deadline = tonumber(call("ZSCORE", q.leased, lease_member(key, item)))
    result[10] = deadline == NEVER and -1 or deadline - now
    return result
  end

  local function all_queues()
    local result = { "ok" }
    for _, entry in ipairs(all_entries()) do
      result[#result + 1] = entry.name
      result[#result + 1] = entry.letters
    end
    return result
  end

  -- The queue of dead letters and the options of a queue, if there is one of this name.
  local function find()
    local raw = call("HGET", KEYS[2], take())
    local entry = raw and entry_of(raw)
    return entry and { "ok", entry.letters, entry.options } or GONE
  end

  return {
    look = look, ready = ready, leased = leased, counts = counts,
    inflight = inflight, info = info, history = history, resume = resume, queues = all_queues,
    find = find,
  }
end)

local ops = {
  look = queries, ready = queries, leased = queries, counts = queries,
  inflight = queries, info = queries, history = queries, resume = queries, queues = queries,
  find = queries,
}
