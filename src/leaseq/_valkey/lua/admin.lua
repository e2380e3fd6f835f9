-- Changes of a queue's items as a whole.

local admin = lazily(function()
  -- Drop all waiting items. O(leased), plus what it costs the server to forget the rest.
  local function purge()
    local q = take_queue()
    if not q then
      return GONE
    end
    local count = q.n_ready + q.n_delayed
    if count == 0 then
      return { "ok", 0 }
    end
    local stay = {}
    for _, member in ipairs(call("ZRANGE", q.leased, 0, -1)) do
      local key = leased_key(member)
      stay[key] = call("HGET", q.items, key)
      local after = call("HGET", q.items, "+" .. key)
      if after then
        stay["+" .. key] = after
      end
    end
    call("UNLINK", q.items, q.ready, q.timers)
    for field, raw in pairs(stay) do
      call("HSET", q.items, field, raw)
      if byte(field) ~= 43 then
        count_letter(q, unpack_item(raw), 1)
      end
    end
    if q.fair then
      for _, tenant in ipairs(call("HKEYS", q.accounts)) do
        local account = byte(tenant) ~= 37 and schedule.find(q, tenant)
        if account and account.ready > 0 then
          account.ready, account.changed = 0, true
          schedule.withdraw(q, tenant, account)
          schedule.rest(q, tenant, account)
        end
      end
    end
    q.n_ready, q.n_delayed = 0, 0
    q.dropped = q.dropped + count
    q.changed = true
    return { "ok", count }
  end

  -- Bring a letter back; false: its key is there by now.
  local function bring_back(q, letters, letter_key, letter, record)
    local key = record[2]
    if call("HEXISTS", q.items, key) == 1 then
      return false
    end
    take_out(letters, letter_key, letter)
    call("HDEL", letters.items, letter_key)
    count_letter(letters, letter, -1)
    letters.acked = letters.acked + 1
    letters.changed, q.changed = true, true
    call("ZREM", q.done, key)
    local item = new_item(record[3], record[9], record[10], NEVER)
    item.letter = record[4]
    let_wait(q, key, item, now, "back")
    count_letter(q, item, 1)
    return true
  end

  -- Bring letters back, the first ones first, until there are enough, or `LOT` were looked at; then
  -- the caller goes on where this one ended. The answer also says how many there were before.
  local function redrive()
    local q = take_queue()
    local all = take() == "1"
    local wanted = {}
    for _ = 1, take_number() do
      wanted[take()] = true
    end
    local limit, from = take_span(), take()
    local letters = q and q.letters_index > 0 and queue_at(q.letters_index)
    if not letters then
      return GONE
    end
    local back, conflicts, there = {}, {}, letters.n_ready
    local lot = call("ZRANGE", letters.ready, from, "+", "BYLEX", "LIMIT", 0, LOT)
    for _, member in ipairs(lot) do
      if #back >= limit then
        break
      end
      local letter_key = key_of(member)
      local letter = read_item(letters, letter_key)
      local record = letter.letter == 1 and cmsgpack.unpack(letter.body)
      if record and record[1] == q.name and (all or wanted[record[2]]) then
        local list = bring_back(q, letters, letter_key, letter, record) and back or conflicts
        list[#list + 1] = record[2]
      end
    end
    return { "ok", back, conflicts, there, #lot == LOT and "(" .. lot[LOT] or "", #lot }
  end

  -- Give a tenant another weight and cap, from its next hand-out on.
  local function set_tenant()
    local q = take_queue()
    local tenant, weight, cap = take(), take_number(), take_number()
    if not q then
      return GONE
    end
    q.changed = true
    if not q.fair then
      schedule.begin(q)
    end
    schedule.set_tenant(q, tenant, weight, cap)
    local account = schedule.find(q, tenant)
    local slots = account and account.ready or 0
    if cap >= 0 then
      slots = min(slots, cap - (account and account.in_flight or 0))
    end
    for _ = 1, min(slots, n_parked(q)) do
      q.freed = q.freed or {}
      q.freed[#q.freed + 1] = tenant
    end
    return OK
  end

  -- End all leases of a consumer that is gone, as if they had expired, in the order of their
  -- hand-outs. O(leased log leased).
  local function release_all()
    local q = take_queue()
    local consumer = take()
    if not q then
      return GONE
    end
    local lost = {}
    for _, member in ipairs(call("ZRANGE", q.leased, 0, -1)) do
      local key = leased_key(member)
      local item = read_item(q, key)
      if item.consumer == consumer then
        lost[#lost + 1] = { key = key, item = item }
      end
    end
    table.sort(lost, function(one, other)
      return one.item.rank < other.item.rank
    end)
    for _, each in ipairs(lost) do
      local key, item = each.key, each.item
      q.released = q.released + 1
      events[#events + 1] = { q.index, "lost", key, item.rank }
      if item.process ~= process then
        waiters.tell(item.process, q.name .. "\0l" .. key .. "\0" .. digits(item.rank))
      end
      end_lease(q, key, item)
      moves.lose(q, key, item, now)
    end
    return { "ok", #lost }
  end

  return {
    purge = purge, redrive = redrive, set_tenant = set_tenant, release_all = release_all,
  }
end)

local ops = {
  declare = declarations, delete = declarations, purge = admin, redrive = admin,
  set_tenant = admin, release_all = admin,
}
