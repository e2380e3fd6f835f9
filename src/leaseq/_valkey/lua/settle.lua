-- Settlements: ack, release, reject and their kin, and extend. Each is safe to send twice: a token
-- that does not hold its item any more is refused, and changes nothing.

local settlements = lazily(function()
  local NO, DROPPED, NOT_KEPT = { "no" }, { "dropped" }, { "not_kept" }

  local function take_ack()
    return { values = values.take_values() }
  end

  -- A key is done: for a while it is not taken again.
  local function remember_done(q, key)
    if type(redis.pcall("ZADD", q.done, now + q.dedupe_for, key)) == "table" then
      return -- it is no sorted set
    end
    local over = call("ZRANGE", q.done, "-inf", now, "BYSCORE", "LIMIT", 0, 16)
    if over[1] then
      call("ZREM", q.done, unpack(over))
    end
  end

  -- Add an item to the history; `was_cancelled` is 1 or 0.
  local function remember_item(q, key, item, was_cancelled)
    local record = pack(
      key, item.body, item.letter, digits(item.rank), item.deliveries, digits(wall), was_cancelled
    )
    q.remembered = q.remembered + 1
    if type(redis.pcall("RPUSH", q.history, record)) ~= "table" then -- it is a list
      call("LTRIM", q.history, -q.history_size, -1)
    end
  end

  -- Keep the values of a settlement; nil: all are kept.
  local function keep(q, how)
    return how.values[1] and values.keep(q, how.values) and NOT_KEPT or nil
  end

  -- The item is done. An update may be dropped that its consumer never saw.
  local function ack_item(q, key, item, how)
    end_lease(q, key, item)
    q.acked = q.acked + 1
    if q.dedupe_for > 0 then
      remember_done(q, key)
    end
    if q.history_size > 0 then
      remember_item(q, key, item, 0)
    end
    local after = moves.take_after(q, key, item)
    if after and after.buffered then
      moves.succeed(q, key, item, after)
      return keep(q, how)
    end
    call("HDEL", q.items, key)
    count_letter(q, item, -1)
    return keep(q, how) or after and DROPPED
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
    local how = { reason = take(), err = take() }
    how.values = values.take_values()
    how.is_unread = take() == "1"
    return how
  end

  local function reject_item(q, key, item, how)
    end_lease(q, key, item)
    moves.die(q, key, item, sub(how.reason, 1, MOST_REASON), how.err, how.is_unread)
    return keep(q, how)
  end

  -- Return the item of a consumer that was cancelled.
  local function give_back_item(q, key, item)
    end_lease(q, key, item)
    q.given_back = q.given_back + 1
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

  -- Give up what should be the leased item of a token, and is none; its consumer is told.
  local function scrap_leased(q, key, token)
    local item, raw = read_item(q, key)
    if item and item.state == LEASED and item.rank == tonumber(token) then
      return -- its time is over
    end
    if call("ZREM", q.leased, struct.pack(">I7", tonumber(token)) .. key) == 1 then
      recount(q)
      events[#events + 1] = { q.index, "damaged", key, tonumber(token) }
      if not item then
        moves.scrap(q, key, raw)
      elseif item.state ~= LEASED then
        moves.forget_after(q, key)
      end
    end
  end

  -- Do something with an item, if the token holds it. The token of a cancelled lease holds nothing;
  -- but its holder has ended now, and frees the key, unless this `only_extends` the lease. `always`:
  -- a cancelled lease is extended too.
  local function settle(find, take_how, act, only_extends, always)
    return function()
      local q, key, token = take_queue(), take(), take()
      local how = take_how and take_how()
      if not q then
        return GONE
      end
      local item = find(q, key, token)
      if not item then
        scrap_leased(q, key, token)
        return NO
      end
      if item.cancelled then
        if not only_extends then
          moves.wind_up(q, key, item)
        elseif always then
          act(q, key, item, how)
        end
        return { "cancelled", item.cancelled }
      end
      return act(q, key, item, how) or OK
    end
  end

  local ack = settle(find_held, take_ack, ack_item)

  -- Read the items of several operations of one queue, which begin at these words: their keys, as they
  -- are packed, and the places in their headers if the tokens are theirs. nil: some leases are over,
  -- or it has to be seen what an operation before has done.
  local function read_several(q, words)
    if not q or first_over(q.leased) then
      return nil
    end
    local keys, places, seen = {}, {}, {}
    for n, at in ipairs(words) do
      local key, token = ARGV[at + 2], tonumber(ARGV[at + 3])
      if seen[key] then
        return nil
      end
      seen[key] = true
      keys[n], places[n] = key, token and struct.pack(">I7", token)
    end
    local raws = call("HMGET", q.items, unpack(keys))
    for _, raw in ipairs(raws) do
      work = work + 0.5 + (raw and #raw or 0) / BYTES
    end
    return keys, raws, places
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

  -- True if an ack of the item is the end of nothing else: it is no letter, has no newer value, and
  -- was not cancelled.
  local function is_plain(raw)
    local item = unpack_item(raw)
    return item.after == 0 and item.letter == 0 and not item.cancelled
  end

  -- Those that are done several at a time, with a few commands. All are checked before anything is
  -- changed. nil: nothing was done, as there is something unusual about one.
  local several = {}

  function several.ack(words)
    local q = queue_at(tonumber(ARGV[cursor + 1]))
    if q and (q.dedupe_for > 0 or q.history_size > 0) then
      return nil
    end
    local keys, raws, places = read_several(q, words)
    if not keys then
      return nil
    end
    local results, done, members, tenants = {}, {}, {}, {}
    for n, key in ipairs(keys) do
      local raw, place = raws[n], places[n]
      if not holds(place, raw) or (byte(raw) >= MORE and not is_plain(raw)) then
        return nil
      end
      results[n] = OK
      done[n] = key
      members[n] = place .. key
      if q.fair then
        tenants[n] = tenant_in(raw)
      end
    end
    call("ZREM", q.leased, unpack(members))
    call("HDEL", q.items, unpack(done))
    q.changed = true
    q.n_leased, q.acked = max(0, q.n_leased - #done), q.acked + #done
    if tenants[1] then
      pcall(note_ends, q, tenants) -- they are done, whatever becomes of the turns
    end
    for n, at in ipairs(words) do
      if ARGV[at + 4] ~= "0" then
        local was_done, not_kept = pcall(values.keep_at, q, at + 4)
        results[n] = (not_kept or not was_done) and NOT_KEPT or OK
      end
    end
    return results
  end

  function several.extend(words)
    local q = queue_at(tonumber(ARGV[cursor + 1]))
    local keys, raws, places = read_several(q, words)
    if not keys then
      return nil
    end
    local results, ends = {}, {}
    for n, key in ipairs(keys) do
      local raw = raws[n]
      if not holds(places[n], raw) or (byte(raw) >= MORE and unpack_item(raw).cancelled) then
        return nil
      end
      local span = tonumber(ARGV[words[n] + 4])
      results[n] = OK
      ends[#ends + 1] = span < 0 and NEVER or now + span
      ends[#ends + 1] = places[n] .. key
    end
    call("ZADD", q.leased, unpack(ends))
    return results
  end

  local release = settle(find_held, take_release, release_item)
  local reject = settle(find_held, take_reject, reject_item)
  local give_back = settle(find_held, nil, give_back_item)
  local undo = settle(find_leased, nil, undo_item)
  local function extend_lease(q, key, item, span)
    call("ZADD", q.leased, now + span, lease_member(key, item))
  end

  local extend = settle(find_held, take_span, extend_lease, true)

  -- The same, also of a lease that was cancelled, whose holder cannot be stopped.
  local hold_on = settle(find_held, take_span, extend_lease, true, true)

  -- Cancel the item of a key. The lease of a leased item ends, and its holder is told; but the item
  -- stays leased until the holder has ended too.
  local function cancel()
    local q, key, reason, keeps = take_queue(), take(), take(), take() == "1"
    local found = values.take_values()
    if not q then
      return GONE
    end
    local item = read_item(q, key)
    if not item then
      return { "ok", 0 }
    end
    if item.state ~= LEASED then
      take_out(q, key, item)
      call("HDEL", q.items, key)
      count_letter(q, item, -1)
      q.cancelled, q.changed = q.cancelled + 1, true
      values.keep(q, found)
      return { "ok", 1 }
    end
    local after = moves.read_after(q, key, item)
    if after and after.buffered and keeps then
      after = nil
    end
    if item.cancelled and not after then
      return { "ok", 0 }
    end
    q.changed = true
    if after then
      moves.take_after(q, key, item)
    end
    if after and after.buffered then
      q.n_buffered, q.cancelled = max(0, q.n_buffered - 1), q.cancelled + 1
    end
    if not item.cancelled then
      item.cancelled = sub(reason, 1, MOST_REASON)
      if q.history_size > 0 then
        remember_item(q, key, item, 1)
      end
      if item.process == process then
        events[#events + 1] = { q.index, "cancelled", key, item.rank, item.cancelled }
      else
        waiters.tell(item.process, q.name .. "\0l" .. key .. "\0" .. digits(item.rank))
      end
    end
    write_item(q, key, item)
    values.keep(q, found)
    return { "ok", 1 }
  end

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
      if item and item.cancelled then
        moves.wind_up(q, key, item)
      elseif item then
        end_lease(q, key, item)
        q.undone = q.undone + 1
        item.deliveries = item.deliveries - 1
        moves.return_item(q, key, item, "old", 0)
      end
    end
    return { "ok", total(q) }
  end

  -- Give up the last call of the process, whose answers are lost: what it has leased goes back. The
  -- queues are those of that call, so that they have the same numbers.
  local function abandon()
    local last = take_number()
    for _ = 1, take_number() do
      take_queue()
    end
    local sound, number_then, heard, _, results = pcall(cmsgpack.unpack, record or "")
    local is_record = sound and type(number_then) == "number" and type(heard) == "number"
    if not (is_record and type(results or {}) == "table") then
      return { "ok", 1 } -- it may have been done
    end
    if number_then < last then
      return { "ok", 0 }
    end
    for _, each in ipairs(number_then == last and results or {}) do
      local q = type(each) == "table" and each[1] == "claim" and find_queue(each[2])
      for n = 5, q and #each or 0 do
        for lease = 1, #each[n], 2 do
          local item = find_leased(q, each[n][lease], each[n][lease + 1])
          if item then
            local take_back = item.cancelled and moves.wind_up or undo_item
            take_back(q, each[n][lease], item)
          end
        end
      end
    end
    return { "ok", 1 }
  end

  return {
    scrap_leased = scrap_leased, abandon = abandon, take_ack = take_ack, take_release = take_release, take_reject = take_reject,
    ack_item = ack_item, release_item =
    release_item, reject_item = reject_item, ack = ack, release = release, reject = reject,
    give_back = give_back, undo = undo, extend = extend, hold_on = hold_on, cancel = cancel, close = close, several = several,
  }
end)
