-- Changes of a queue's items as a whole, in steps: each does so much work, and the process asks for
-- the next one.

local admin = lazily(function()
  local STEP = 200 -- items that are looked at together

  -- Drop some items that wait: those of members of a line, of keys that begin at a place in these.
  local function drop_some(q, line, members, key_in, right)
    local keys = {}
    for n, member in ipairs(members) do
      keys[n] = key_in(member) or member
    end
    local raws = call("HMGET", q.items, unpack(keys))
    for n, key in ipairs(keys) do
      local item = item_in(raws[n])
      work = work + (q.fair and 6 or 1)
      if item and item.state ~= LEASED and right(key, item) == members[n] then
        take_out(q, key, item)
        count_letter(q, item, -1)
      else -- it is there, and is not an item's
        call("ZREM", line, members[n])
        recount(q)
      end
      if not item or item.state ~= LEASED then
        call("HDEL", q.items, key)
      end
    end
    q.dropped = q.dropped + #keys
    return #keys
  end

  -- Drop some of what waits. The answer also says how many waited before.
  local function purge()
    local q = take_queue()
    if not q then
      return GONE
    end
    local count, dropped = q.n_ready + q.n_delayed, 0
    q.changed = true
    if q.n_leased == 0 and not q.fair then
      call("UNLINK", q.items, q.ready, q.timers)
      q.n_ready, q.n_delayed = 0, 0
      q.dropped = q.dropped + count
      return { "ok", count, count }
    end
    while q.n_ready + q.n_delayed > 0 and not late() do
      local most = min(STEP, lot_size(q)) - 1
      local ready = call("ZRANGE", q.ready, 0, most)
      if ready[1] then
        dropped = dropped + drop_some(q, q.ready, ready, function(member)
          return place_at(member) and key_of(member)
        end, member_of)
      else
        local timed = call("ZRANGE", q.timers, 0, most)
        if not timed[1] then
          recount(q)
        else
          dropped = dropped + drop_some(q, q.timers, timed, leased_key, timer_member)
        end
      end
    end
    return { "ok", dropped, count }
  end

  -- The letter that a member of the line stands for, with its key and its item; nil: there is none.
  local function letter_of(letters, member)
    local key = place_at(member) and key_of(member)
    local item = key and read_item(letters, key)
    local is_its = item and item.state == READY and item.letter == 1 and member_of(key, item) == member
    local letter = is_its and read_letter(item.body)
    if letter and #letter[2] <= MOST_KEY and #letter[9] <= MOST_NAME then
      return letter, key, item
    end
    return nil, key or member
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
    note_size(q, item.body)
    let_wait(q, key, item, now, "back")
    count_letter(q, item, 1)
    return true
  end

  -- Bring letters back, the first ones first, until there are enough, or enough were looked at; then
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
    local back, conflicts, there, looked_at, after = {}, {}, letters.n_ready, 0, ""
    local lot = call("ZRANGE", letters.ready, from, "+", "BYLEX", "LIMIT", 0, STEP)
    for _, member in ipairs(lot) do
      if #back >= limit or (late() and looked_at > 0) then
        break
      end
      looked_at, after = looked_at + 1, "(" .. member
      local record, letter_key, letter = letter_of(letters, member)
      if not record then -- it stays where it is
        events[#events + 1] = { letters.index, "dead", letter_key, 0, "corrupt", "kept" }
      elseif record[1] == q.name and (all or wanted[record[2]]) then
        local list = bring_back(q, letters, letter_key, letter, record) and back or conflicts
        list[#list + 1] = record[2]
      end
    end
    if #lot < STEP and (looked_at == #lot or #back >= limit) then
      after = ""
    end
    return { "ok", back, conflicts, there, after, looked_at }
  end

  local WOKEN = 100 -- processes that are woken together: each wakes the next one

  -- Note that a tenant may have more than before, so that processes are woken for it.
  local function free_slots(q, tenant, before)
    for _ = 1, min(schedule.slots_of(q, tenant) - before, n_parked(q), WOKEN) do
      q.freed = q.freed or {}
      q.freed[#q.freed + 1] = tenant
    end
  end

  -- Give a tenant another weight and cap, from its next hand-out on.
  local function set_tenant()
    local q = take_queue()
    local tenant, weight, cap = take(), take_number(), take_number()
    if not q then
      return GONE
    elseif #tenant > MOST_NAME then
      too_long("a tenant's name")
    end
    q.changed = true
    if not q.fair then
      schedule.begin(q)
    end
    local before = schedule.slots_of(q, tenant)
    schedule.set_tenant(q, tenant, weight, cap)
    free_slots(q, tenant, before)
    return OK
  end

  -- Begin to write, with a command that needs no memory: after it a full server refuses no other one of
  -- this call, such as that which stores the state.
  local function begin_to_write()
    call("HDEL", KEYS[1], "")
  end

  -- Stop handing out items of the queue, or of a tenant.
  local function pause()
    local q = take_queue()
    local tenant, reason = take(), take()
    if not q then
      return GONE
    elseif #tenant > MOST_NAME then
      too_long("a tenant's name")
    end
    reason = sub(reason, 1, MOST_REASON)
    q.changed = true
    if tenant ~= "" then
      return schedule.pause(q, tenant, reason) and OK or { "no" }
    end
    begin_to_write()
    q.paused, q.reason = q.paused > 0 and q.paused or wall, reason
    return OK
  end

  -- Resume the queue, or a tenant. The answer says whether it was paused.
  local function resume()
    local q = take_queue()
    local tenant = take()
    if not q then
      return GONE
    end
    q.changed = true
    if tenant ~= "" then
      local was = schedule.resume(q, tenant)
      if was then
        free_slots(q, tenant, 0)
      end
      return { "ok", was and 1 or 0 }
    end
    local was = q.paused > 0
    begin_to_write()
    q.paused, q.reason = 0, ""
    if was then
      waiters.wake_after_pause(q)
    end
    return { "ok", was and 1 or 0 }
  end

  -- End leases of a consumer that is gone, as if they had expired, in the order of their hand-outs, of
  -- those in the next page of leases.
  local function release_all()
    local q = take_queue()
    local consumer, from = take(), take()
    if not q then
      return GONE
    end
    local lost = {}
    local after = page_of_leases(q, from, function(key, item)
      if item.consumer == consumer then
        lost[#lost + 1] = { key = key, item = item }
      end
    end)
    table.sort(lost, function(one, other)
      return one.item.rank < other.item.rank
    end)
    for _, each in ipairs(lost) do
      local key, item = each.key, each.item
      events[#events + 1] = { q.index, "lost", key, item.rank }
      if item.process ~= process then
        waiters.tell(item.process, q.name .. "\0l" .. key .. "\0" .. digits(item.rank))
      end
      if item.cancelled then
        moves.wind_up(q, key, item)
      else
        q.released = q.released + 1
        end_lease(q, key, item)
        moves.lose(q, key, item, now)
      end
    end
    return { "ok", #lost, after }
  end

  return {
    purge = purge, redrive = redrive, set_tenant = set_tenant, release_all = release_all,
    pause = pause, resume = resume,
  }
end)

local ops = {
  declare = declarations, delete = declarations, purge = admin, redrive = admin,
  set_tenant = admin, release_all = admin, pause = admin, resume = admin,
}
