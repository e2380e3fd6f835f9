-- Settlements: ack, release, reject and their kin, and extend. Each is safe to send twice: a token
-- that does not hold its item any more is refused, and changes nothing.

local settlements = lazily(function()
  local NO, DROPPED = { "no" }, { "dropped" }

  -- A key is done: for a while it is not taken again.
  local function remember_done(q, key)
    call("ZADD", q.done, now + q.dedupe_for, key)
    local over = call("ZRANGE", q.done, "-inf", now, "BYSCORE", "LIMIT", 0, 16)
    if over[1] then
      call("ZREM", q.done, unpack(over))
    end
  end

  local function remember_item(q, key, item)
    local record = pack(key, item.body, item.letter, digits(item.rank), item.deliveries, digits(wall))
    call("RPUSH", q.history, record)
    call("LTRIM", q.history, -q.history_size, -1)
  end

  -- The item is done. True: an update was dropped that its consumer never saw.
  local function ack_item(q, key, item)
    end_lease(q, key, item)
    q.acked = q.acked + 1
    if q.dedupe_for > 0 then
      remember_done(q, key)
    end
    if q.history_size > 0 then
      remember_item(q, key, item)
    end
    local after = item.after ~= 0 and moves.take_after(q, key, item)
    if after and after.buffered then
      moves.succeed(q, key, item, after)
      return false
    end
    call("HDEL", q.items, key)
    count_letter(q, item, -1)
    return after ~= false
  end

  local function take_release()
    return {
      front = take() == "1", delay = take_number(), counted = take() == "1", err = take(),
    }
  end

  local function release_item(q, key, item, how)
    end_lease(q, key, item)
    q.released = q.released + 1
    item.cancellations = 0
    if not how.counted then
      q.undone = q.undone + 1
      item.deliveries = item.deliveries - 1
    elseif moves.is_last_delivery(q, item) then
      moves.die(q, key, item, "max_deliveries", how.err)
      return
    end
    local delay = how.delay
    if delay < 0 then
      delay = how.counted and not how.front and moves.backoff(q, item.deliveries) or 0
    end
    moves.return_item(q, key, item, how.front and "front" or "back", delay)
  end

  local function take_reject()
    return { reason = take(), err = take() }
  end

  local function reject_item(q, key, item, how)
    end_lease(q, key, item)
    moves.die(q, key, item, how.reason, how.err)
  end

  -- Return the item of a consumer that was cancelled.
  local function give_back_item(q, key, item)
    end_lease(q, key, item)
    q.cancelled = q.cancelled + 1
    local place = item.cancellations > 0 and "back" or "old"
    item.cancellations = item.cancellations + 1
    item.deliveries = item.deliveries - 1
    moves.return_item(q, key, item, place, 0)
  end

  -- Take back a hand-out that its consumer never saw.
  local function undo_item(q, key, item)
    local expires = item.expires
    end_lease(q, key, item)
    item.expires = expires
    q.undone = q.undone + 1
    item.deliveries = item.deliveries - 1
    moves.return_item(q, key, item, "old", 0)
  end

  -- Do something with an item, if the token holds it. Only an ack drops an update.
  local function settle(find, take_how, act)
    return function()
      local q, key, token = take_queue(), take(), take()
      local how = take_how and take_how()
      if not q then
        return GONE
      end
      local item = find(q, key, token)
      if not item then
        return NO
      end
      return act(q, key, item, how) and DROPPED or OK
    end
  end

  local ack = settle(find_held, nil, ack_item)

  -- Read the items of several operations that follow one another, of one queue: their keys, as they
  -- are packed, and the places in their headers if the tokens are theirs. nil: some leases are over,
  -- or it has to be seen what an operation before has done.
  local function read_several(q, count, words)
    if not q or first_over(q.leased) then
      return nil
    end
    local keys, places, seen = {}, {}, {}
    for n = 1, count do
      local at = cursor + words * (n - 1)
      local key, token = ARGV[at + 2], tonumber(ARGV[at + 3])
      if seen[key] then
        return nil
      end
      seen[key] = true
      keys[n], places[n] = key, token and struct.pack(">I7", token)
    end
    return keys, call("HMGET", q.items, unpack(keys)), places
  end

  local function note_ends(q, tenants)
    for _, tenant in ipairs(tenants) do
      note_end(q, tenant)
    end
  end

  -- True if the token of this place holds the item.
  local function holds(place, raw)
    return raw and byte(raw) % MORE == LEASED and sub(raw, 2, 8) == place
  end

  -- Those that are done several at a time, with a few commands. All are checked before anything is
  -- changed. nil: nothing was done, as there is something unusual about one.
  local several = {}

  function several.ack(count)
    local q = queue_at(tonumber(ARGV[cursor + 1]))
    local keys, raws, places = read_several(q, count, 4)
    if not keys or q.dedupe_for > 0 or q.history_size > 0 then
      return nil
    end
    local results, done, members, tenants = {}, {}, {}, {}
    for n, key in ipairs(keys) do
      local raw, place = raws[n], places[n]
      if not holds(place, raw) then
        results[n] = NO
      elseif byte(raw) >= MORE then
        return nil
      else
        results[n] = OK
        done[#done + 1] = key
        members[#members + 1] = place .. key
        if q.fair then
          tenants[#tenants + 1] = tenant_in(raw)
        end
      end
    end
    if done[1] then
      call("ZREM", q.leased, unpack(members))
      call("HDEL", q.items, unpack(done))
      q.changed = true
      q.n_leased, q.acked = q.n_leased - #done, q.acked + #done
      if tenants[1] then
        pcall(note_ends, q, tenants) -- they are done, whatever becomes of the turns
      end
    end
    return results
  end

  function several.extend(count)
    local q = queue_at(tonumber(ARGV[cursor + 1]))
    local keys, raws, places = read_several(q, count, 5)
    if not keys then
      return nil
    end
    local results, ends = {}, {}
    for n, key in ipairs(keys) do
      if holds(places[n], raws[n]) then
        local span = tonumber(ARGV[cursor + 5 * n - 1])
        results[n] = OK
        ends[#ends + 1] = span < 0 and NEVER or now + span
        ends[#ends + 1] = places[n] .. key
      else
        results[n] = NO
      end
    end
    if ends[1] then
      call("ZREM", q.leased, "") -- as below
      call("ZADD", q.leased, unpack(ends))
    end
    return results
  end

  local release = settle(find_held, take_release, release_item)
  local reject = settle(find_held, take_reject, reject_item)
  local give_back = settle(find_held, nil, give_back_item)
  local undo = settle(find_leased, nil, undo_item)
  -- A server that is full refuses a script's first write if it could take memory. This one takes none,
  -- and leases must be kept; so another write comes first.
  local extend = settle(find_held, take_span, function(q, key, item, span)
    call("ZREM", q.leased, "")
    call("ZADD", q.leased, now + span, lease_member(key, item))
  end)

  -- Give leases back to their old places, uncounted, for a handle that closes.
  local function close()
    local q = take_queue()
    local leases = {}
    for n = 1, take_number() do
      leases[n] = { take(), take() }
    end
    if not q then
      return GONE
    end
    for _, lease in ipairs(leases) do
      local key = lease[1]
      local item = find_leased(q, key, lease[2])
      if item then
        end_lease(q, key, item)
        q.undone = q.undone + 1
        item.deliveries = item.deliveries - 1
        moves.return_item(q, key, item, "old", 0)
      end
    end
    return { "ok", total(q) }
  end

  return {
    take_release = take_release, take_reject = take_reject, ack_item = ack_item, release_item =
    release_item, reject_item = reject_item, ack = ack, release = release, reject = reject,
    give_back = give_back, undo = undo, extend = extend, close = close, several = several,
  }
end)
